package runners

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var gobusterModes = []string{"dir", "dns", "vhost"}

var gobusterProfiles = []struct {
	name, about, mode string
	extensions        []string
	threads           int
}{
	{"quick", "", "dir", nil, 10},
	{"standard", " (html, php, txt)", "dir", []string{"html", "php", "txt"}, 15},
	{"thorough", " (12 extensions)", "dir", []string{"asp", "aspx", "bak", "html", "js", "json", "jsp", "old", "php", "txt", "xml", "zip"}, 20},
	{"dns", "", "dns", nil, 15},
	{"vhost", "", "vhost", nil, 10},
}

const (
	defaultWordlist = "small"
	defaultTimeout  = 10 // seconds
	// WordlistForm is what a wordlist is called by.
	WordlistForm = `^[a-z0-9][a-z0-9._-]{0,63}$`
)

var (
	wordlistForm  = regexp.MustCompile(WordlistForm)
	extensionForm = regexp.MustCompile(`^[a-z0-9]{1,8}(\.[a-z0-9]{1,8})?$`)
)

func gobusterProfileNames() (names []string) {
	for _, p := range gobusterProfiles {
		names = append(names, p.name)
	}
	return names
}

func gobusterTool() Tool {
	const about = "Finds paths, names or sites by a list of words. Engagements must allow url, and by rules for names host and all below domain. Profiles: "
	var profiles []string
	for _, p := range gobusterProfiles {
		profiles = append(profiles, p.name+p.about)
	}
	return Tool{Name: gobusterName, Scanner: "gobuster", Title: "Find web paths and names",
		Description: about + strings.Join(profiles, ", "), InputSchema: objectSchema(gobusterFields())}
}

// gobusterFields is every argument of gobuster_scan. Those that nmap_scan has, too, are not described again: models
// read the list in every session.
func gobusterFields() []field {
	first, last := 100, 599
	status := schema{Type: "integer", Minimum: &first, Maximum: &last}
	return []field{
		{"url", schema{Type: "string"}},
		{"domain", schema{Type: "string"}},
		{"profile", oneOfWords("", gobusterProfileNames())},
		{"mode", oneOfWords("", gobusterModes)},
		{"wordlist", schema{Type: "string", Description: "As in capabilities.", Default: defaultWordlist}},
		{"extensions", list("", 0, maxExtensions, schema{Type: "string"})},
		{"host", schema{Type: "string", Description: "dir: Host header."}},
		{"status_codes", list("", 1, maxStatuses, status)},
		{"exclude_status", list("Default: 404.", 1, maxStatuses, status)},
		{"threads", numbers("", 1, maxThreads)},
		{"delay_ms", numbers("", 0, maxDelay)},
		{"timeout_s", numbers("", 1, maxTimeout)},
		{"tls_verify", truth("")},
		{"ip_version", schema{Type: "integer", Enum: []any{4, 6}}},
		{"rate", numbers("", 1, maxRate)},
		{"limit", numbers("", minLimit, maxLimit)},
		{"engagement", schema{Type: "string"}},
	}
}

// gobusterDraft is a call while it is read.
type gobusterDraft struct {
	Gobuster
	reader
}

func readGobuster(members map[string]json.RawMessage) (Gobuster, []Fault) {
	d := &gobusterDraft{reader: reader{fields: gobusterFields()}}
	d.TLSVerify = true
	d.all(members, d.take)
	d.fill()
	return d.Gobuster, d.withMeaning(d.Gobuster.validate())
}

func (d *gobusterDraft) take(name string, raw json.RawMessage) bool {
	switch name {
	case "url":
		d.URL = d.text(name, raw)
	case "domain":
		d.Domain = strings.ToLower(d.text(name, raw))
	case "host":
		d.Host = strings.ToLower(d.text(name, raw))
	case "profile":
		d.Profile = d.text(name, raw)
	case "mode":
		d.Mode = d.text(name, raw)
	case "wordlist":
		d.Wordlist = d.text(name, raw)
	case "extensions":
		d.Extensions = slices.Sorted(slices.Values(d.texts(name, raw, maxExtensions)))
	case "status_codes":
		d.StatusCodes = d.numbers(name, raw, maxStatuses)
	case "exclude_status":
		d.ExcludeStatus = d.numbers(name, raw, maxStatuses)
	case "threads":
		d.Threads = d.number(name, raw)
	case "delay_ms":
		d.Delay = d.number(name, raw)
	case "timeout_s":
		d.Timeout = d.number(name, raw)
	case "tls_verify":
		d.TLSVerify = d.truth(name, raw)
	case "ip_version":
		d.IPVersion = d.number(name, raw)
	case "rate":
		d.Rate = d.number(name, raw)
	case "limit":
		d.Limit = d.number(name, raw)
	case "engagement":
		d.Engagement = d.engagement(name, raw)
	default:
		return false
	}
	return true
}

// fill puts the profile's defaults where nothing was given, and what is readable into its one spelling.
func (d *gobusterDraft) fill() {
	if !d.given["profile"] {
		d.Profile = gobusterProfiles[0].name
	}
	p := gobusterProfiles[0]
	if i := slices.Index(gobusterProfileNames(), d.Profile); i >= 0 {
		p = gobusterProfiles[i]
	}
	if !d.given["mode"] {
		d.Mode = p.mode
	}
	if !d.given["extensions"] && d.Mode == "dir" {
		d.Extensions = slices.Clone(p.extensions)
	}
	d.Extensions = slices.Compact(d.Extensions)
	if !d.given["threads"] {
		d.Threads = p.threads
	}
	if !d.given["timeout_s"] {
		d.Timeout = defaultTimeout
	}
	if !d.given["wordlist"] {
		d.Wordlist = defaultWordlist
	}
	if d.Mode == "dir" && !d.given["status_codes"] && !d.given["exclude_status"] {
		d.ExcludeStatus = []int{404}
	}
	u, fault := readURL(d.URL)
	if d.URL != "" && fault == nil {
		d.URL = u.String()
	}
	if d.Mode == "vhost" && !d.given["domain"] && fault == nil {
		d.Domain = u.host.Name
	}
	if d.given["ip_version"] {
		return
	}
	d.IPVersion = 4
	if fault == nil && family(u.host.Prefix) == 6 {
		d.IPVersion = 6
	}
}

// numbers reads a list of whole numbers, sorted, each once.
func (d *reader) numbers(field string, raw json.RawMessage, most int) (all []int) {
	for i, e := range d.list(field, raw, most) {
		n, is := Whole(e)
		if !is || n != int64(int32(n)) {
			d.wrongType(element(field, i), e, "a whole number")
			continue
		}
		all = append(all, int(n))
	}
	if all == nil {
		d.faults = append(d.faults, Fault{Code: "too_few", Field: field, Hint: "name one, or leave the argument out"})
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (g *Gobuster) validate() []Fault {
	faults := oneOf("mode", g.Mode, gobusterModes)
	faults = append(faults, oneOf("profile", g.Profile, gobusterProfileNames())...)
	faults = append(faults, oneOf("ip_version", strconv.Itoa(g.IPVersion), []string{"4", "6"})...)
	if len(faults) > 0 {
		return faults
	}
	faults = append(faults, g.placeFaults()...)
	faults = append(faults, g.listFaults()...)
	fields := gobusterFields()
	within := func(field string, got int, open bool) {
		if low, high, _ := rangeOf(fields, field); (got != 0 || !open) && (got < low || got > high) {
			faults = append(faults, outOfRange(field, got, low, high))
		}
	}
	within("threads", g.Threads, false)
	within("timeout_s", g.Timeout, false)
	within("delay_ms", g.Delay, false)
	within("rate", g.Rate, true)
	within("limit", g.Limit, true)
	if g.Engagement != "" && !engagement.MatchString(g.Engagement) {
		faults = append(faults, badEngagement(g.Engagement))
	}
	if !wordlistForm.MatchString(g.Wordlist) {
		faults = append(faults, Fault{Code: "bad_name", Field: "wordlist", Got: excerpt(g.Wordlist), Allowed: []string{"1 to 64 of a-z 0-9 . _ -"},
			Hint: "a wordlist is given by its name; capabilities lists them"})
	}
	return faults
}

// placeFaults are those of where a call goes: url, host and domain, as its mode has them.
func (g *Gobuster) placeFaults() (faults []Fault) {
	wants := func(field, got string, wanted, may bool) {
		switch {
		case got == "" && wanted:
			faults = append(faults, Fault{Code: "contradiction", Field: field, Hint: "mode " + g.Mode + " needs it", with: "mode"})
		case got != "" && !wanted && !may:
			faults = append(faults, Fault{Code: "contradiction", Field: field, Hint: "mode " + g.Mode + " has no use for it: leave it out", with: "mode"})
		}
	}
	wants("url", g.URL, g.Mode != "dns", false)
	wants("domain", g.Domain, g.Mode != "dir", false)
	wants("host", g.Host, false, g.Mode == "dir")
	if g.URL != "" {
		u, fault := readURL(g.URL)
		switch literal := family(u.host.Prefix); {
		case fault != nil:
			faults = append(faults, *fault)
		case u.String() != g.URL:
			faults = append(faults, notCanonical("url", g.URL, u.String()))
		case literal != 0 && literal != g.IPVersion:
			faults = append(faults, Fault{Code: "mixed_families", Field: "ip_version", Got: strconv.Itoa(g.IPVersion), Allowed: []string{strconv.Itoa(literal)},
				Hint: "the URL has an address of the other version", with: "url"})
		}
	}
	for field, name := range map[string]string{"domain": g.Domain, "host": g.Host} {
		if name == "" {
			continue
		}
		if t, fault := readTarget(field, name); fault != nil {
			faults = append(faults, *fault)
		} else if t.Name != name {
			faults = append(faults, Fault{Code: "target_name", Field: field, Got: excerpt(name), Hint: "this is a name, in lower case", Example: "lab.internal"})
		}
	}
	slices.SortFunc(faults, func(a, b Fault) int { return strings.Compare(a.Field, b.Field) })
	return faults
}

func (g *Gobuster) listFaults() (faults []Fault) {
	clash := func(when bool, field, with, hint string) {
		if when {
			faults = append(faults, Fault{Code: "contradiction", Field: field, Hint: hint, with: with})
		}
	}
	dir := g.Mode == "dir"
	const ofDir, noDNS = "only mode dir has it: leave it out", "mode dns has no use for it: leave it out"
	clash(g.Mode == "dns" && !g.TLSVerify, "tls_verify", "mode", noDNS)
	clash(g.Mode == "dns" && g.IPVersion != 4, "ip_version", "mode", noDNS)
	clash(!dir && len(g.Extensions) > 0, "extensions", "mode", ofDir)
	clash(!dir && len(g.StatusCodes) > 0, "status_codes", "mode", ofDir)
	clash(!dir && len(g.ExcludeStatus) > 0, "exclude_status", "mode", ofDir)
	clash(len(g.StatusCodes) > 0 && len(g.ExcludeStatus) > 0, "exclude_status", "status_codes", "give one of the two")
	clash(dir && len(g.StatusCodes)+len(g.ExcludeStatus) == 0, "status_codes", "exclude_status", "give one of the two")
	if len(g.Extensions) > maxExtensions {
		return append(faults, tooMany("extensions", len(g.Extensions), maxExtensions))
	}
	for i, e := range g.Extensions {
		if !extensionForm.MatchString(e) {
			faults = append(faults, Fault{Code: "bad_extension", Field: element("extensions", i), Got: excerpt(e), Allowed: []string{"1 to 8 of a-z 0-9, and once more after a dot"}, Example: "php, tar.gz"})
		}
	}
	if !slices.IsSorted(g.Extensions) || len(once(g.Extensions)) != len(g.Extensions) {
		faults = append(faults, notCanonical("extensions", "out of order or twice", "sorted, each once"))
	}
	return append(append(faults, statusFaults("status_codes", g.StatusCodes)...), statusFaults("exclude_status", g.ExcludeStatus)...)
}

func statusFaults(field string, codes []int) (faults []Fault) {
	if len(codes) > maxStatuses {
		return []Fault{tooMany(field, len(codes), maxStatuses)}
	}
	for i, c := range codes {
		if c < 100 || c > 599 {
			faults = append(faults, outOfRange(element(field, i), c, 100, 599))
		} else if i > 0 && c <= codes[i-1] {
			return []Fault{notCanonical(field, fmt.Sprint(codes), "sorted, each once")}
		}
	}
	return faults
}
