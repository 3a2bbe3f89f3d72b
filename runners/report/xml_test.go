package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tag is what is read of one, as text.
type tag struct {
	At    place
	Start bool
	Attrs string
	Text  string // of a cpe
}

// ours are the tags that xmlReader reads, as far as it comes.
func ours(r io.Reader) (tags []tag, err error) {
	x := newXMLReader(r, nmapSteps, maxTotal)
	for {
		at, start, err := x.next()
		if err != nil {
			return tags, err
		}
		t := tag{At: at, Start: start}
		if start {
			var b strings.Builder
			for _, a := range x.attrs {
				fmt.Fprintf(&b, "%s=%q ", x.values[a.name:a.value], x.values[a.value:a.end])
			}
			t.Attrs = b.String()
			if at == inCPE {
				x.keepText()
			}
		} else if at == inCPE {
			t.Text = string(x.text)
		}
		tags = append(tags, t)
		if len(x.ends) == 0 {
			return tags, nil
		}
	}
}

// theirs are the same as encoding/xml reads them. same says that there is nothing in which the two are meant to differ.
func theirs(data []byte) (tags []tag, same bool) {
	d := xml.NewDecoder(bytes.NewReader(data))
	path, names, text, cpe := []place{nowhere}, []string{}, "", false
	for {
		token, err := d.RawToken()
		if err != nil {
			return tags, false
		}
		switch t := token.(type) {
		case xml.StartElement:
			at := nowhere
			if parent := path[len(path)-1]; t.Name.Space == "" && (parent != nowhere || len(path) == 1) {
				at = nmapSteps[step{parent, t.Name.Local}]
			}
			if t.Name.Space != "" || len(path) > maxDepth || len(t.Name.Local) > maxName || len(t.Attr) > maxAttrs {
				return nil, false
			}
			var b strings.Builder
			for _, a := range t.Attr {
				if a.Name.Space != "" || len(a.Name.Local) > maxName || len(a.Value) > maxValue {
					return nil, false
				}
				if at != nowhere {
					fmt.Fprintf(&b, "%s=%q ", a.Name.Local, a.Value)
				}
			}
			path, names, text, cpe = append(path, at), append(names, t.Name.Local), "", at == inCPE
			tags = append(tags, tag{At: at, Start: true, Attrs: b.String()})
		case xml.EndElement:
			at, last := path[len(path)-1], len(names)-1
			if last < 0 || t.Name.Local != names[last] || t.Name.Space != "" {
				return nil, false // RawToken does not look
			}
			path, names = path[:len(path)-1], names[:last]
			tags = append(tags, tag{At: at})
			if at == inCPE {
				tags[len(tags)-1].Text = text
			}
			cpe = false
			if len(path) == 1 {
				return tags, true
			}
		case xml.CharData:
			if text += string(t); len(text) > maxValue {
				return nil, false
			}
		default:
			if cpe {
				return nil, false // a comment within a text
			}
		}
	}
}

func TestTagsAreThoseThatEncodingXMLReads(t *testing.T) {
	for name, data := range captures(t) {
		want, whole := theirs(data)
		got, err := ours(bytes.NewReader(data))
		if !whole && !errors.Is(err, io.EOF) || whole && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got[:min(len(got), len(want))]); diff != "" {
			t.Errorf("%s: (-encoding/xml +ours)\n%s", name, diff)
		}
		slow, slowErr := ours(iotest.OneByteReader(bytes.NewReader(data)))
		if !errors.Is(slowErr, err) || !cmp.Equal(slow, got) {
			t.Errorf("%s: a byte at a time: %v", name, slowErr)
		}
	}
}

var odd = regexp.MustCompile(`<![^A-Za-z-]|<![A-Za-z][^>]*<!`)

// What encoding/xml reads to its end is read here with the same tags, attributes and texts.
func FuzzTagsAreThoseThatEncodingXMLReads(f *testing.F) {
	for _, data := range captures(f) {
		f.Add(data)
	}
	for _, seed := range []string{
		`<nmaprun a='1' b = "&lt;&#x41;&#65;&quot;"><host/><a><b x="1"/></a></nmaprun>`,
		`<!DOCTYPE nmaprun [<!ENTITY a "x>">]><?x y?><!-- > <a> --><nmaprun><host><ports><port><service><cpe>a&amp;b</cpe></service></port></ports></host></nmaprun >`,
		`<nmaprun><![CDATA[<x>]]></nmaprun>`, `<nmaprun a="<"/>`, `<nmaprun a=1/>`, `<nmaprun>&bomb;</nmaprun>`, `<nmaprun></nmapru>`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ours(bytes.NewReader(data))
		if bytes.ContainsAny(data, "\r") || odd.Match(data) {
			return // it changes line ends, has no texts of CDATA here, and takes declarations that are none
		}
		want, same := theirs(data)
		if !same {
			return
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-encoding/xml +ours)\n%s", err, diff)
		}
	})
}

// large is a report of nmap with as many hosts, each with ports, services, scripts and texts as a real one has them.
type large struct {
	hosts, ports int
	next         int
	pending      []byte
	scratch      []byte
}

func (l *large) Read(p []byte) (n int, err error) {
	if len(l.pending) == 0 {
		if l.pending = l.piece(); l.pending == nil {
			return 0, io.EOF
		}
	}
	n = copy(p, l.pending)
	l.pending = l.pending[n:]
	return n, nil
}

func (l *large) piece() []byte {
	i := l.next - 1
	l.next++
	b := bytes.NewBuffer(l.scratch[:0])
	defer func() { l.scratch = b.Bytes() }()
	switch {
	case i < 0:
		b.WriteString(head)
	case i > l.hosts:
		return nil
	case i == l.hosts:
		fmt.Fprintf(b, `<runstats><finished exit="success"/><hosts up="%d" down="0" total="%d"/></runstats></nmaprun>`, l.hosts, l.hosts)
	default:
		fmt.Fprintf(b, "<host starttime=\"1795523993\" endtime=\"1795524068\"><status state=\"up\" reason=\"arp-response\" reason_ttl=\"0\"/>\n<address addr=\"10.%d.%d.%d\" addrtype=\"ipv4\"/>\n<hostnames>\n</hostnames>\n<ports><extraports state=\"closed\" count=\"900\">\n<extrareasons reason=\"reset\" count=\"900\" proto=\"tcp\" ports=\"1-900\"/>\n</extraports>\n", i>>16, i>>8&255, i&255)
		for n := range l.ports {
			fmt.Fprintf(b, "<port protocol=\"tcp\" portid=\"%d\"><state state=\"open\" reason=\"syn-ack\" reason_ttl=\"64\"/><service name=\"ssh\" product=\"OpenSSH\" version=\"9.2p1 Debian 2+deb12u%d\" extrainfo=\"protocol 2.0\" ostype=\"Linux\" method=\"probed\" conf=\"10\"><cpe>cpe:/a:openbsd:openssh:9.2p1</cpe><cpe>cpe:/o:linux:linux_kernel</cpe></service><script id=\"banner\" output=\"SSH-2.0-OpenSSH_9.2p1 host %d &lt;b&gt;&#xa;caf\xc3\x83\xc2\xa9\"/></port>\n", 1+n, n, i)
		}
		b.WriteString("</ports>\n<times srtt=\"48\" rttvar=\"5000\" to=\"100000\"/>\n</host>\n")
	}
	return b.Bytes()
}

// plainReport is what a plain decode of a report of nmap has.
type plainReport struct {
	Scanner string `xml:"scanner,attr"`
	Version string `xml:"version,attr"`
	Hosts   []struct {
		TimedOut bool `xml:"timedout,attr"`
		Status   struct {
			State  string `xml:"state,attr"`
			Reason string `xml:"reason,attr"`
		} `xml:"status"`
		Addresses []struct {
			Addr string `xml:"addr,attr"`
			Type string `xml:"addrtype,attr"`
		} `xml:"address"`
		Ports struct {
			Extra []struct {
				State string `xml:"state,attr"`
				Count int    `xml:"count,attr"`
			} `xml:"extraports"`
			Ports []struct {
				Port  int    `xml:"portid,attr"`
				Proto string `xml:"protocol,attr"`
				State struct {
					State  string `xml:"state,attr"`
					Reason string `xml:"reason,attr"`
				} `xml:"state"`
				Service struct {
					Name     string   `xml:"name,attr"`
					Product  string   `xml:"product,attr"`
					Version  string   `xml:"version,attr"`
					Extra    string   `xml:"extrainfo,attr"`
					Hostname string   `xml:"hostname,attr"`
					OS       string   `xml:"ostype,attr"`
					Device   string   `xml:"devicetype,attr"`
					Method   string   `xml:"method,attr"`
					Tunnel   string   `xml:"tunnel,attr"`
					CPE      []string `xml:"cpe"`
				} `xml:"service"`
				Scripts []struct {
					ID     string `xml:"id,attr"`
					Output string `xml:"output,attr"`
				} `xml:"script"`
			} `xml:"port"`
		} `xml:"ports"`
	} `xml:"host"`
	Finished struct {
		Exit string `xml:"exit,attr"`
	} `xml:"runstats>finished"`
}

// The report of nmap is read, judged and cleaned at least twice as fast as encoding/xml decodes it: the best of three of
// each, in turns.
func TestParsingIsFasterThanAPlainDecode(t *testing.T) {
	data, err := io.ReadAll(&large{hosts: 1000, ports: 20})
	if err != nil {
		t.Fatal(err)
	}
	ours, plain := time.Hour, time.Hour
	for round := 0; round < 3 || round < 20 && plain < 2*ours; round++ { // the best of some rounds: others have this machine, too
		began := time.Now()
		if r := parse(t, data); r.Coverage.OpenPorts != 20000 || !r.ExitOK {
			t.Fatalf("%+v", r.Coverage)
		}
		ours = min(ours, time.Since(began))
		began = time.Now()
		var p plainReport
		if err := xml.NewDecoder(bytes.NewReader(data)).Decode(&p); err != nil || len(p.Hosts) != 1000 || len(p.Hosts[0].Ports.Ports) != 20 {
			t.Fatal(err, len(p.Hosts))
		}
		plain = min(plain, time.Since(began))
	}
	mib := float64(len(data)) / (1 << 20)
	t.Logf("%.1f MiB: %.0f MiB/s, encoding/xml %.0f MiB/s: %.1f times as fast", mib, mib/ours.Seconds(), mib/plain.Seconds(), plain.Seconds()/ours.Seconds())
	if plain < 2*ours {
		t.Errorf("%v, and encoding/xml took %v", ours, plain)
	}
}

func BenchmarkParseNmap(b *testing.B) {
	data, err := io.ReadAll(&large{hosts: 1000, ports: 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			parse(b, data)
		}
	})
	b.Run("encoding_xml", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			var p plainReport
			if err := xml.NewDecoder(bytes.NewReader(data)).Decode(&p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// counting counts what is read.
type counting struct {
	io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// many is lines without end, or as many as it has.
type many struct {
	line          func(i int) string
	next, lines   int
	before, after string
	pending       string
}

func (m *many) Read(p []byte) (n int, err error) {
	if m.pending == "" {
		switch {
		case m.next == 0:
			m.pending = m.before
		case m.next <= m.lines:
			m.pending = m.line(m.next - 1)
		case m.next == m.lines+1:
			m.pending = m.after
		default:
			return 0, io.EOF
		}
		m.next++
	}
	n = copy(p, m.pending)
	m.pending = m.pending[n:]
	return n, nil
}

// floods are outputs far larger than what is kept of them.
var floods = map[string]func() (Report, int64, error){
	"nmap of 65536 hosts": func() (Report, int64, error) {
		c := &counting{Reader: &large{hosts: 65536, ports: 2}}
		r, err := ParseNmap(c, nil)
		return r, c.n, err
	},
	"nmap of 1 GB": func() (Report, int64, error) {
		c := &counting{Reader: &large{hosts: 65536, ports: 40}}
		r, err := ParseNmap(c, nil)
		return r, c.n, err
	},
	"masscan of a million lines": func() (Report, int64, error) {
		c := &counting{Reader: &many{lines: 1000000, line: func(i int) string {
			return fmt.Sprintf("Discovered open port %d/tcp on 10.%d.%d.%d                                \n", 1+i%16, i>>20, i>>12&255, i>>4&255)
		}}}
		r, err := ParseMasscan(c, strings.NewReader(masscanHead+fmt.Sprintf(masscanEnd, 1000000)), nil)
		return r, c.n, err
	},
	"declared of a million lines": func() (Report, int64, error) {
		c := &counting{Reader: &many{lines: 1000000, line: func(i int) string {
			return fmt.Sprintf("10.%d.%d.%d %d open banner of host %d\n", i>>20, i>>12&255, i>>4&255, 1+i%16, i)
		}}}
		form := Form{Scanner: "other", Lines: []Line{{Pattern: regexp.MustCompile(`^(?P<host>\S+) (?P<port>\d+) (?P<state>\w+) (?P<banner>.*)$`)}}}
		r, err := ParseDeclared(c, strings.NewReader(strings.Repeat("x\n", 1000000)), form, nil)
		return r, c.n, err
	},
	"gobuster of a million lines": func() (Report, int64, error) {
		c := &counting{Reader: &many{lines: 1000000, line: func(i int) string {
			return fmt.Sprintf("\r\x1b[2K/path%d               (Status: 301) [Size: %d] [--> /elsewhere/%d]\n", i, i, i)
		}, before: ruler + "Gobuster v3.5\n" + ruler + ruler + ruler, after: "\n" + ruler + "Finished\n" + ruler}}
		asked := askedPaths
		asked.Requests = 1000000
		r, err := ParseGobuster(c, strings.NewReader(strings.Repeat("[ERROR] x\n", 1000000)), asked, nil)
		return r, c.n, err
	},
}

const floodName = "SECMCPD_REPORT_FLOOD"

// TestMain reads one of the floods instead of testing, in a process whose memory is nobody else's.
func TestMain(m *testing.M) {
	name := os.Getenv(floodName)
	if name == "" {
		os.Exit(m.Run())
	}
	r, n, err := floods[name]()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status, err := os.ReadFile("/proc/self/status")
	peak := 0
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak)
	}
	found := 0
	for _, h := range r.Hosts {
		found += len(h.Found)
	}
	fmt.Printf("%v %d %v %d %d %d %d %s", err, peak, r.ExitOK, n>>20, r.Coverage.Up, r.Coverage.OpenPorts, found, strings.Join(r.Cut, ","))
	runtime.KeepAlive(r)
	os.Exit(0)
}

// However much a scanner prints, a process that reads it has less than 64 MiB, and what is left out is said.
func TestFloodsTakeBoundedMemory(t *testing.T) {
	for name, want := range map[string]string{
		"nmap of 65536 hosts":         "true 73 65536 131072 0 scripts,hosts,texts",
		"nmap of 1 GB":                "true 1029 65536 2621440 0 scripts,texts,ports,hosts",
		"masscan of a million lines":  "true 71 16384 262144 0 hosts,ports",
		"declared of a million lines": "true 39 62500 65536 0 texts,hosts",
		"gobuster of a million lines": "true 79 1 1 16384 found,texts",
	} {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), floodName+"="+name)
		began := time.Now()
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		var peak int
		_, said, _ := strings.Cut(string(out), "<nil> ")
		text, said, _ := strings.Cut(said, " ")
		if _, err := fmt.Sscan(text, &peak); err != nil {
			t.Errorf("%s: %q", name, out)
		}
		t.Logf("%s: %d KiB, %v: %s", name, peak, time.Since(began).Round(time.Millisecond), said)
		if peak >= 64<<10 || peak == 0 || said != want {
			t.Errorf("%s: %d KiB, %s, want %s", name, peak, said, want)
		}
	}
}
