package front

import (
	"io"
	"net/netip"
	"slices"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// declarationFile is the declaration that a job of a declared tool was asked for by, as a file of the
// job's own: the operator may change or remove it while the scan runs.
const declarationFile = "runner.yaml"

// toolsOf is the scanners as a job knows them: one of a declared tool has its own declaration.
func (f *front) toolsOf(row store.Job) runners.Table {
	if builtIn := runners.BuiltIn(); builtIn.ScannerOf(row.Tool) == "" {
		if d, err := f.declarationOf(row); err == nil {
			return builtIn.With(d)
		}
	}
	return f.now().Tools
}

// declarationOf is the declaration that a job was asked for by.
func (f *front) declarationOf(row store.Job) (runners.Declaration, error) {
	file, err := f.store.Artefact(row.ID, declarationFile)
	if err != nil {
		return runners.Declaration{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxArtefact))
	if err != nil {
		return runners.Declaration{}, err
	}
	d, faults := runners.ParseDeclaration(row.Tool+".yaml", text)
	return d, faults.Err()
}

// formOf is how the output of a job of a declared tool is read.
func (f *front) formOf(row store.Job, record wire.Job) (report.Form, error) {
	d, err := f.declarationOf(row)
	if err != nil {
		return report.Form{}, err
	}
	o := d.Output
	form := report.Form{Scanner: row.Tool, Stderr: o.Stderr, JSON: o.JSON, States: o.States, Whole: o.Lists == "found", End: o.End, Failed: o.Failed, Statuses: o.Statuses}
	for _, l := range o.Lines {
		form.Lines = append(form.Lines, report.Line(l))
	}
	asked, all := prefixesOf(record.Verdict.Addresses, record.Verdict.AddressCount)
	if all {
		form.Asked = asked
	}
	call, faulty := runners.BuiltIn().With(d).Read(row.Tool, row.Arguments)
	if len(faulty) > 0 {
		return form, nil // of a version of this program that read it otherwise: what a line does not say is not known
	}
	plan := call.Plan()
	form.Ports = &report.AskedPorts{TCP: plan.Asked.TCP, UDP: plan.Asked.UDP}
	form.Only, form.UDP = only(plan, asked, all)
	return form, nil
}

// only is the one address and the one port that were asked, each where there is but one.
func only(p runners.Plan, asked []netip.Prefix, all bool) (at netip.AddrPort, udp bool) {
	var addr netip.Addr
	if all && len(asked) == 1 && asked[0].IsSingleIP() {
		addr = asked[0].Addr()
	}
	udp = len(p.Asked.TCP) == 0 && len(p.Asked.UDP) > 0
	ports := slices.Concat(p.Asked.TCP, p.Asked.UDP)
	if len(ports) == 1 && ports[0][0] == ports[0][1] {
		return netip.AddrPortFrom(addr, ports[0][0]), udp
	}
	return netip.AddrPortFrom(addr, 0), udp
}

// endedWell says whether an exit status is one of a scan that went well.
func endedWell(code int, r report.Report) bool {
	if r.Statuses == nil {
		return code == 0
	}
	return slices.Contains(r.Statuses, code)
}

// settled takes back what a report of a declared scanner claims where the scanner did not end well: of
// those it is the exit status that tells.
func settled(o *wire.Outcome, r report.Report) report.Report {
	if r.Statuses == nil || o.Reason == wire.Exited && endedWell(o.Code, r) {
		return r
	}
	r.Finished, r.ExitOK = false, false
	if r.Coverage.Whole {
		r.Coverage.Whole, r.Coverage.Completed = false, []netip.Prefix{}
	}
	return r
}
