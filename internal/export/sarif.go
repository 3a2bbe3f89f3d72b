package export

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/secmcpd/secmcpd/runners/report"
)

const (
	sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	homepage    = "https://github.com/secmcpd/secmcpd"
)

type object = map[string]any

// rules are what a result may be about. That something is found is no fault by itself: the level of all is note.
var rules = []struct{ id, name, about string }{
	{"open-port", "OpenPort", "A port is open: something answered on it."},
	{"found-path", "FoundPath", "A path is there on a web server: it answered as it does not answer for others."},
	{"found-name", "FoundName", "A name is there: a name server or a web server answered for it."},
}

// writeSARIF writes SARIF 2.1.0: a run with one invocation, whose executionSuccessful says whether everything was
// looked at, with a notification for each reason why not. Texts of scanned hosts are in properties alone: a message
// may have links in it.
func writeSARIF(w *bufio.Writer, s *Scan) error {
	head, err := json.Marshal(object{"tool": s.sarifTool(), "invocations": []object{s.invocation()}, "columnKind": "utf16CodeUnits",
		"automationDetails": object{"id": s.Tool + "/" + s.Profile + "/" + s.ID}, "properties": object{"job": s.head, "coverage": orNull(s.coverage)}})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `{"$schema":%q,"version":"2.1.0","runs":[`, sarifSchema)
	w.Write(head[:len(head)-1])
	w.WriteString(`,"results":[`)
	comma := "\n"
	for _, h := range s.Hosts {
		for _, r := range s.results(h) {
			text, err := json.Marshal(r)
			if err != nil {
				return err
			}
			w.WriteString(comma)
			if _, err := w.Write(text); err != nil {
				return err // a writer that failed once fails at each call
			}
			comma = ",\n"
		}
	}
	_, err = w.WriteString("]}]}\n")
	return err
}

func orNull(text json.RawMessage) json.RawMessage {
	if text == nil {
		return json.RawMessage("null")
	}
	return text
}

func (s *Scan) sarifTool() object {
	name, version := s.program()
	driver := object{"name": name, "informationUri": homepage}
	if version != "" {
		driver["version"] = version
	}
	var all []object
	for _, r := range rules {
		all = append(all, object{"id": r.id, "name": r.name, "shortDescription": object{"text": r.about}, "defaultConfiguration": object{"level": "note"}})
	}
	driver["rules"] = all
	return object{"driver": driver}
}

func (s *Scan) invocation() object {
	i := object{"executionSuccessful": s.Complete(), "toolExecutionNotifications": s.notifications()}
	if s.End.ExitCode != nil {
		i["exitCode"] = *s.End.ExitCode
	}
	if s.End.Signal != 0 {
		i["exitSignalNumber"] = s.End.Signal
	}
	for name, t := range map[string]string{"startTimeUtc": stamp(s.Started), "endTimeUtc": stamp(s.Ended)} {
		if t != "" {
			i[name] = t
		}
	}
	return i
}

func (s *Scan) notifications() []object {
	level := "error"
	if s.Complete() {
		level = "note"
	}
	all := []object{{"level": level, "message": object{"text": plain(s.Verdict())}, "descriptor": object{"id": s.Status}}}
	for _, text := range s.Remarks() {
		if level == "error" {
			level = "warning"
		}
		all = append(all, object{"level": level, "message": object{"text": plain(text)}})
	}
	return all
}

// A result, as far as SARIF's objects are needed. There may be very many.
type (
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    [1]sarifLocation  `json:"locations"`
		Fingerprints sarifFingerprints `json:"partialFingerprints"`
		Properties   any               `json:"properties"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
		} `json:"physicalLocation"`
		Logical [1]sarifLogical `json:"logicalLocations"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifFingerprints struct {
		First string `json:"secmcpd/v1"`
	}
	sarifPort struct {
		Address netip.Addr `json:"address"`
		report.Port
	}
)

// results are what there is to say of a host: its open ports, or what was found by words.
func (s *Scan) results(h report.Host) (all []sarifResult) {
	for _, p := range h.Ports {
		if len(h.Found) > 0 || p.State != "open" && p.State != "open|filtered" {
			continue
		}
		what := strconv.Itoa(p.Port) + "/" + p.Proto
		service := ""
		if p.Service != "" {
			service = " (" + p.Service + ")"
		}
		at := p.Proto + "://" + netip.AddrPortFrom(h.Addr, uint16(p.Port)).String()
		all = append(all, result(0, h.Addr.String()+"/"+what, at, fmt.Sprintf("Port %s is %s on %s%s.", what, p.State, h.Addr, service), sarifPort{h.Addr, p}))
	}
	for _, f := range h.Found {
		rule, what := 1, f.Path
		if f.Name != "" {
			rule, what = 2, f.Name
		}
		all = append(all, result(rule, h.Addr.String()+" "+what, s.place(h.Addr, f), fmt.Sprintf("Found at %s: %s", h.Addr, what), f))
	}
	return all
}

// place is the URI of what was found by words: below the URL that was asked for, or as a name.
func (s *Scan) place(at netip.Addr, f report.Found) string {
	var asked struct {
		URL string `json:"url"`
	}
	_ = json.Unmarshal(s.Arguments, &asked) // without a URL there is the address
	site, err := url.Parse(asked.URL)
	if err != nil || site.Host == "" {
		site = &url.URL{Scheme: "http", Host: netip.AddrPortFrom(at, 80).String()}
	}
	switch {
	case f.Name != "" && f.Status == 0:
		return "dns:" + f.Name
	case f.Name != "":
		return (&url.URL{Scheme: site.Scheme, Host: f.Name, Path: "/"}).String()
	}
	return (&url.URL{Scheme: site.Scheme, Host: site.Host, Path: strings.TrimSuffix(site.Path, "/") + f.Path}).String()
}

func result(rule int, what, at, text string, properties any) sarifResult {
	r := sarifResult{RuleID: rules[rule].id, RuleIndex: rule, Level: "note", Message: sarifText{plain(text)}, Properties: properties}
	r.Locations[0].Physical.Artifact.URI = at
	r.Locations[0].Logical[0] = sarifLogical{what, "resource"}
	r.Fingerprints.First = rules[rule].id + ":" + what
	return r
}

// plain is a text as a message has it, where brackets make links and braces take arguments.
func plain(text string) string { return plainly.Replace(text) }

var plainly = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `{`, `{{`, `}`, `}}`)
