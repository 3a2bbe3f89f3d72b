package export

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/runners/report"
)

// What of nmap's XML there is to say, in the order that its DTD wants.
type (
	xmlHost struct {
		XMLName  xml.Name     `xml:"host"`
		TimedOut bool         `xml:"timedout,attr,omitempty"`
		Status   xmlState     `xml:"status"`
		Address  []xmlAddress `xml:"address"`
		Names    *xmlNames    `xml:"hostnames"`
		Ports    *xmlPorts    `xml:"ports"`
		OS       *xmlOS       `xml:"os"`
		Scripts  *xmlScripts  `xml:"hostscript"`
	}
	xmlState struct {
		State  string `xml:"state,attr"`
		Reason string `xml:"reason,attr"`
		TTL    int    `xml:"reason_ttl,attr"`
	}
	xmlAddress struct {
		Addr   string `xml:"addr,attr"`
		Type   string `xml:"addrtype,attr"`
		Vendor string `xml:"vendor,attr,omitempty"`
	}
	xmlNames struct{}
	xmlPorts struct {
		Others []xmlOthers `xml:"extraports"`
		Ports  []xmlPort   `xml:"port"`
	}
	xmlOthers struct {
		State string `xml:"state,attr"`
		Count int    `xml:"count,attr"`
	}
	xmlPort struct {
		Proto   string      `xml:"protocol,attr"`
		ID      int         `xml:"portid,attr"`
		State   xmlState    `xml:"state"`
		Service *xmlService `xml:"service"`
		Scripts []xmlScript `xml:"script"`
	}
	xmlService struct {
		Name     string   `xml:"name,attr"`
		Product  string   `xml:"product,attr,omitempty"`
		Version  string   `xml:"version,attr,omitempty"`
		Extra    string   `xml:"extrainfo,attr,omitempty"`
		Tunnel   string   `xml:"tunnel,attr,omitempty"`
		Hostname string   `xml:"hostname,attr,omitempty"`
		OS       string   `xml:"ostype,attr,omitempty"`
		Device   string   `xml:"devicetype,attr,omitempty"`
		Method   string   `xml:"method,attr"`
		Conf     int      `xml:"conf,attr"`
		CPE      []string `xml:"cpe"`
	}
	xmlScripts struct {
		Scripts []xmlScript `xml:"script"`
	}
	xmlScript struct {
		ID     string `xml:"id,attr"`
		Output string `xml:"output,attr"`
	}
	xmlOS struct {
		Matches []xmlMatch `xml:"osmatch"`
	}
	xmlMatch struct {
		Name     string `xml:"name,attr"`
		Accuracy int    `xml:"accuracy,attr"`
		Line     int    `xml:"line,attr"`
	}
)

// writeXML writes a result in the form of nmap's XML 1.05. It is always whole and well-formed: how far the scan came is
// said by its end, where exit is success for a complete one alone, and errormsg the verdict on others.
func writeXML(w *bufio.Writer, s *Scan) error {
	program, version := s.program()
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE nmaprun>\n<nmaprun%s>\n", attributes("scanner", program, "args", "secmcpd: job "+s.ID+", "+s.Tool+", "+s.Profile,
		"start", epoch(s.Started), "startstr", clock(s.Started), "version", orUnknown(version), "xmloutputversion", "1.05"))
	w.WriteString("<verbose level=\"0\"/>\n<debugging level=\"0\"/>\n")
	e := xml.NewEncoder(w)
	for _, h := range s.Hosts {
		if err := e.Encode(nmapHost(h)); err != nil {
			return err
		}
		w.WriteByte('\n')
	}
	exit, why, up, down, total := "success", "", s.Summary.HostsUp, 0, uint64(0)
	if !s.Complete() {
		exit, why = "error", strings.Join(append([]string{s.Verdict()}, s.Remarks()...), " ")
	}
	if c := s.Coverage; c != nil {
		down, total = c.Down, c.Asked
	}
	_, err := fmt.Fprintf(w, "<runstats>\n<finished%s/>\n<hosts up=\"%d\" down=\"%d\" total=\"%d\"/>\n</runstats>\n</nmaprun>\n",
		attributes("time", epoch(s.Ended), "timestr", clock(s.Ended), "elapsed", elapsed(s), "exit", exit, "errormsg", why), up, down, total)
	return err
}

func nmapHost(h report.Host) xmlHost {
	out := xmlHost{TimedOut: h.TimedOut, Status: xmlState{State: h.Status, Reason: orUnknown(h.Reason)}, Names: &xmlNames{}}
	family := "ipv4"
	if h.Addr.Is6() {
		family = "ipv6"
	}
	out.Address = append(out.Address, xmlAddress{Addr: h.Addr.String(), Type: family})
	if h.MAC != "" {
		out.Address = append(out.Address, xmlAddress{Addr: h.MAC, Type: "mac", Vendor: h.Vendor})
	}
	if len(h.Ports)+len(h.Others) > 0 {
		out.Ports = &xmlPorts{}
	}
	for _, o := range h.Others {
		out.Ports.Others = append(out.Ports.Others, xmlOthers(o))
	}
	for _, p := range h.Ports {
		out.Ports.Ports = append(out.Ports.Ports, nmapPort(p))
	}
	for i, os := range h.OS {
		if i == 0 {
			out.OS = &xmlOS{}
		}
		out.OS.Matches = append(out.OS.Matches, xmlMatch{Name: os.Name, Accuracy: os.Accuracy})
	}
	if h.Untrusted != nil {
		out.Scripts = &xmlScripts{scripts(h.Untrusted.Scripts)}
	}
	return out
}

func nmapPort(p report.Port) xmlPort {
	out := xmlPort{Proto: p.Proto, ID: p.Port, State: xmlState{State: p.State, Reason: orUnknown(p.Reason)}}
	u := p.Untrusted
	if u == nil {
		u = &report.PortText{}
	}
	out.Scripts = scripts(u.Scripts)
	if p.Service == "" && u.Product == "" {
		return out
	}
	s := xmlService{Name: orUnknown(p.Service), Product: u.Product, Version: u.Version, Extra: u.Extra, Hostname: u.Hostname, OS: u.OS, Device: u.Device, CPE: u.CPE, Method: "table", Conf: 3}
	if p.Method == "probed" {
		s.Method, s.Conf = "probed", 10
	}
	if p.Tunnel == "ssl" {
		s.Tunnel = "ssl"
	}
	out.Service = &s
	return out
}

func scripts(all []report.Script) (out []xmlScript) {
	for _, s := range all {
		out = append(out, xmlScript{ID: s.Name, Output: s.Output})
	}
	return out
}

// orUnknown is for what the DTD wants and the scanner did not say.
func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// attributes are names and values of those that have one.
func attributes(pairs ...string) string {
	var out strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		out.WriteString(" " + pairs[i] + "=\"")
		_ = xml.EscapeText(&out, []byte(pairs[i+1])) // a builder takes all
		out.WriteByte('"')
	}
	return out.String()
}

func epoch(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return strconv.FormatInt(t.Unix(), 10)
}

func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.ANSIC)
}

func elapsed(s *Scan) string {
	if s.Started.IsZero() || s.Ended.Before(s.Started) {
		return "0"
	}
	return strconv.FormatFloat(s.Ended.Sub(s.Started).Seconds(), 'f', 2, 64)
}
