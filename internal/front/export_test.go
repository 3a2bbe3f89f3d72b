package front

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/export"
	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
)

func readResource(s *mcp.ClientSession, uri string) (*mcp.ReadResourceResult, error) {
	return s.ReadResource(context.Background(), &mcp.ReadResourceParams{URI: uri})
}

// A finished job has its result in each form, for its user alone, and the list of resources names them.
func TestAResultInEachForm(t *testing.T) {
	r := newRoom(t)
	mine, other := r.agent(1000, nil), r.agent(1001, nil)
	id := r.scanned(mine, quick, allowed(8, "10.91.0.8/29"), capture(t, "connect.xml"), exited)["job_id"].(string)
	list, err := mine.ListResources(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, l := range list.Resources {
		listed[l.URI] = l.MIMEType
	}
	for name, has := range map[string]string{
		"report.html":  `<section class="verdict good">`,
		"result.jsonl": `{"record":"coverage","complete":true`,
		"result.csv":   "\ncoverage,,,,complete,",
		"result.sarif": `"executionSuccessful":true`,
		"nmap.xml":     ` exit="success"`,
	} {
		uri := "secmcpd://jobs/" + id + "/" + name
		got, err := readResource(mine, uri)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c := got.Contents[0]; len(got.Contents) != 1 || c.MIMEType == "" || c.MIMEType != listed[uri] || !strings.Contains(c.Text, has) || !strings.Contains(c.Text, "10.91.0.10") {
			t.Errorf("%s, listed as %q and read as %q, lacks %s: %.300s", name, listed[uri], c.MIMEType, has, c.Text)
		}
		_, foreign := readResource(other, uri)
		_, nobodys := readResource(other, strings.Replace(uri, id, someJob, 1))
		if foreign == nil || nobodys == nil || strings.ReplaceAll(foreign.Error(), id, someJob) != nobodys.Error() {
			t.Errorf("foreign: %v; nobody's: %v", foreign, nobodys)
		}
	}
	for _, no := range []string{"report.htm", "jobs.db", "result.csv?from=", "result.csv?from=-1", "result.csv?from=01", "result.csv?from=9999999", "result.csv?to=1", "result?from=1", "../nmap.xml"} {
		if _, err := readResource(mine, "secmcpd://jobs/"+id+"/"+no); err == nil {
			t.Errorf("%s was read", no)
		}
	}
}

// A scan that failed or was cut says so in each form.
func TestAnExportOfWhatIsNoWholeResult(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	out, run := r.begin(s, quick)
	if _, err := readResource(s, "secmcpd://jobs/"+run.record.ID+"/report.html"); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("of a job that runs: %v", err)
	}
	run.write(capture(t, "killed.xml"))
	run.end(wire.Outcome{Reason: wire.Timeout, Usage: wire.Usage{SentPackets: 1}})
	<-out
	run.acknowledged()
	failed := r.scanned(s, quick, allowed(1, "10.77.0.10/32"), nil, wire.Outcome{Reason: wire.Exited, Code: 1, Usage: wire.Usage{SentPackets: 1}})["job_id"].(string)
	for id, says := range map[string]string{run.record.ID: "did not come to its end", failed: "The scan failed."} {
		for _, f := range export.All() {
			got, err := readResource(s, "secmcpd://jobs/"+id+"/"+f.Name)
			if err != nil || !strings.Contains(got.Contents[0].Text, says) {
				t.Errorf("%s does not say %q: %v", f.Name, says, err)
			}
		}
	}
}

// What is larger than one answer comes in parts that fit together, whoever asks for which.
func TestAnExportInParts(t *testing.T) {
	var xml bytes.Buffer
	xml.WriteString(`<?xml version="1.0"?><nmaprun scanner="nmap" version="7.93">`)
	long := strings.Repeat("Größe → ↯ 𝄞 ", 18)
	for i := range 350 {
		fmt.Fprintf(&xml, `<host><status state="up" reason="syn-ack"/><address addr="10.77.%d.%d" addrtype="ipv4"/><ports>`, i/250, i%250+1)
		for port := range 12 {
			fmt.Fprintf(&xml, `<port protocol="tcp" portid="%d"><state state="open" reason="syn-ack"/><service name="http" product="%s%d" method="probed"/></port>`, port+1, long, i)
		}
		xml.WriteString(`</ports></host>`)
	}
	xml.WriteString(`<runstats><finished time="1" exit="success"/><hosts up="350" down="0" total="350"/></runstats></nmaprun>`)
	r := newRoom(t)
	s := r.agent(1000, nil)
	id := r.scanned(s, quick, allowed(350, "10.77.0.0/23"), xml.Bytes(), exited)["job_id"].(string)
	for _, f := range export.All() {
		var whole strings.Builder
		parts, uri := 0, "secmcpd://jobs/"+id+"/"+f.Name
		for uri != "" && parts < 50 {
			got, err := readResource(s, uri)
			if err != nil {
				t.Fatal(uri, err)
			}
			if n := len(got.Contents[0].Text); n > maxResource || n < maxResource-4 && len(got.Contents) > 1 {
				t.Errorf("%s has %d bytes", uri, n)
			}
			whole.WriteString(got.Contents[0].Text)
			parts, uri = parts+1, ""
			if len(got.Contents) > 1 {
				uri = got.Contents[1].URI
			}
		}
		if parts < 2 {
			t.Errorf("%s came in %d parts: the test is of nothing", f.Name, parts)
		}
		if text := whole.String(); strings.Contains(text, "\uFFFD") || strings.Count(text, "Größe → ↯ 𝄞 349") != 12 {
			t.Errorf("%s does not fit together: %d bytes in %d parts", f.Name, len(text), parts)
		}
	}
}

// A window never gives more than it may, and all parts of what was written are all of it.
func TestAWindowMovesOverWhatIsWritten(t *testing.T) {
	text := []byte(strings.Repeat("aé→𝄞", maxResource/5))
	for _, chunk := range []int{1000, 4096, len(text)} {
		var all []byte
		for from := int64(0); ; {
			w := &window{from: from}
			for rest := text; len(rest) > 0; {
				n := min(chunk, len(rest))
				w.Write(rest[:n])
				rest = rest[n:]
			}
			part, next := w.part()
			all = append(all, part...)
			if len(part) > maxResource || w.total != int64(len(text)) {
				t.Fatalf("%d bytes of %d", len(part), w.total)
			}
			if next == 0 {
				break
			}
			from = next
		}
		if !bytes.Equal(all, text) {
			t.Errorf("in pieces of %d: %d bytes of %d", chunk, len(all), len(text))
		}
	}
}

// Of a scan by words there is no nmap's XML.
func TestNotEveryToolHasEachForm(t *testing.T) {
	for tool, want := range map[string]int{gobusterTool: 4, masscanTool: 5, "nmap_scan": 5} {
		if got := exports(store.Job{ID: someJob, Tool: tool}); len(got) != want {
			t.Errorf("%s has %d forms, not %d", tool, len(got), want)
		}
	}
}
