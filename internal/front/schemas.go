package front

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" && a.String() == s
}

// The schemas are JSON Schema 2020-12 in the plain subset that every model's API takes: one type
// a property, no references. What agents see of them is a golden file; a change is a change of
// behaviour.
const (
	emptySchema = `{"type":"object","properties":{},"additionalProperties":false}`

	jobIDProperty = `"job_id":{"type":"string","pattern":"^[a-z2-7]{26}$","description":"the job_id that a scan answered"}`
	waitProperty  = `"wait_s":{"type":"integer","minimum":0,"maximum":45,"default":%d,"description":"seconds to wait for the end of the scan before answering"}`

	jobIDSchema = `{"type":"object","properties":{` + jobIDProperty + `},"required":["job_id"],"additionalProperties":false}`

	cursorProperty = `"cursor":{"type":"string","description":"next_cursor of the page before, of the same %s"}`
	limitProperty  = `"limit":{"type":"integer","minimum":1,"maximum":100,"default":20,"description":"entries on a page; large ones make it shorter"}`
)

var (
	jobSchema    = fmt.Sprintf(`{"type":"object","properties":{`+jobIDProperty+`,`+waitProperty+`},"required":["job_id"],"additionalProperties":false}`, 0)
	resultSchema = fmt.Sprintf(`{"type":"object","properties":{`+jobIDProperty+`,`+waitProperty+`,`+cursorProperty+`,`+limitProperty+
		`,"host":{"type":"string","description":"one address: what became of it, and what was found there"}},"required":["job_id"],"additionalProperties":false}`, 0, "job")
	listSchema = `{"type":"object","properties":{"state":{"type":"string","enum":["` + strings.Join(states, `","`) + `"],"description":"only jobs in this state"},` +
		limitProperty + `,` + fmt.Sprintf(cursorProperty, "state") + `},"additionalProperties":false}`
)

// withOurs adds the arguments that concern the call to a runner's schema.
func withOurs(schema json.RawMessage) string {
	var s map[string]any
	if err := json.Unmarshal(schema, &s); err != nil {
		panic(fmt.Sprintf("front: schema of a runner: %v", err)) // a constant of ours; tested
	}
	properties := s["properties"].(map[string]any)
	for name, text := range map[string]string{
		"wait_s":         `{"type":"integer","minimum":0,"maximum":45,"default":30,"description":"seconds to wait for the end; a scan that takes longer answers with its job_id and goes on"}`,
		"correlation_id": `{"type":"string","pattern":"^[A-Za-z0-9._:-]{1,64}$","description":"an id of your own, shown with the job in later answers"}`,
	} {
		properties[name] = json.RawMessage(text)
	}
	return string(encode(s))
}

func previewSchema(names []string) string {
	return `{"type":"object","properties":{"tool":{"type":"string","enum":["` + strings.Join(names, `","`) + `"],"description":"the scan tool"},` +
		`"arguments":{"type":"object","description":"its arguments, as that tool takes them"}},"required":["tool","arguments"],"additionalProperties":false}`
}

// The parts of answers.
const (
	errorProperty = `"error":{"type":"object","description":"why it was refused","properties":{"code":{"type":"string"},"field":{"type":"string"},"got":{"type":"string"},` +
		`"allowed":{"type":"array","items":{"type":"string"}},"reason":{"type":"string"},"hint":{"type":"string"},"rule":{"type":"string"},"example":{"type":"string"},"retryable":{"type":"boolean"}}},` +
		`"faults":{"type":"array","description":"the first 32 faults","items":{"type":"object"}}`
	gapsProperty = `"not_enforced":{"type":"array","description":"protections that were missing","items":{"type":"object","properties":{"layer":{"type":"string"},"why":{"type":"string"},"follows":{"type":"string"}}}}`

	scannerProperty = `"scanner":{"type":"object","properties":{"tool":{"type":"string"},"path":{"type":"string"},"version":{"type":"string"},"sha256":{"type":"string"},"problem":{"type":"string"}}}`
)

var answerSchema = `{"type":"object","properties":{` +
	`"job_id":{"type":"string"},` +
	`"status":{"type":"string","enum":["` + strings.Join(states, `","`) + `"]},` +
	`"tool":{"type":"string"},"profile":{"type":"string"},"correlation_id":{"type":"string"},"engagement":{"type":"string"},"rule":{"type":"string"},` +
	`"created":{"type":"string"},"started":{"type":"string"},"ended":{"type":"string"},"deadline":{"type":"string"},` +
	`"end":{"type":"object","description":"how it ended","properties":{"reason":{"type":"string"},"exit_code":{"type":"integer"},"signal":{"type":"integer"},"stage":{"type":"string"},"detail":{"type":"string"},"scanner_error":{"type":"string"}}},` +
	`"progress":{"type":"object","properties":{"task":{"type":"string"},"percent":{"type":"number"},"remaining_s":{"type":"integer"},"hosts_done":{"type":"integer"}}},` +
	`"arguments":{"type":"object","description":"what was asked, defaults filled in"},"arguments_shortened":{"type":"object","description":"the whole length of lists that are shown in part"},` +
	`"resolved":{"type":"array","description":"the first names that were asked for: name, the first addresses, count of all","items":{"type":"object"}},` +
	`"summary":{"type":"object","properties":{"hosts_up":{"type":"integer","description":"that answered"},"open_ports":{"type":"integer"},"silent":{"type":"integer"},"timed_out":{"type":"integer"},"complete":{"type":"boolean"}}},` +
	`"hosts":{"type":"array","description":"hosts that are up, silent or timed out","items":{"type":"object","properties":{"addr":{"type":"string"},"status":{"type":"string"},` +
	`"silent":{"type":"boolean","description":"called up without looking; nothing answered"},"timed_out":{"type":"boolean","description":"given up: nothing is known of its ports"},` +
	`"ports":{"type":"array","items":{"type":"object","properties":{"port":{"type":"integer"},"proto":{"type":"string"},"state":{"type":"string"},"service":{"type":"string"},` +
	`"untrusted":{"type":"object","description":"text of the scanned host"}}}},"untrusted":{"type":"object","description":"text of the scanned host"}}}},` +
	`"page":{"type":"object","properties":{"returned":{"type":"integer"},"total":{"type":"integer"},"continued":{"type":"boolean","description":"the first host began on the page before"},` +
	`"continues":{"type":"boolean","description":"the last host goes on on the next page"},"ports_total":{"type":"integer"},"next_cursor":{"type":"string"}}},` +
	`"coverage":{"type":"object","description":"what was asked for and what became of it, in addresses","properties":{"asked":{"type":"integer","description":"without those excluded"},"excluded":{"type":"integer"},` +
	`"exclusions":{"type":"array","items":{"type":"object"}},"probed":{"type":"integer"},"up":{"type":"integer","description":"silent and timed out ones among them"},"down":{"type":"integer"},"silent":{"type":"integer"},"timed_out":{"type":"integer"},"not_reached":{"type":"integer"},` +
	`"addresses":{"type":"object","description":"which they are: completed, timed_out and not_reached, each with count (of addresses), prefixes (the first) and more (not all are listed)"},` +
	`"hosts_not_listed":{"type":"integer"},"dropped_packets":{"type":"integer"},"cut_by":{"type":"string"},"cut_from":{"type":"array","items":{"type":"string"}},"complete":{"type":"boolean"}}},` +
	`"usage":{"type":"object"},` + scannerProperty + `,` + gapsProperty + `,` +
	`"artifacts":{"type":"array","items":{"type":"object","properties":{"uri":{"type":"string"},"mime_type":{"type":"string"},"size":{"type":"integer"}}}},` +
	errorProperty + `,"notice":{"type":"string"},"next":{"type":"string"},"poll_after_s":{"type":"integer"}}}`

// briefSchema is the same answer for the tools that go on from a job, without repeating its
// inside in every list of tools that a model reads.
var briefSchema = `{"type":"object","properties":{` +
	`"job_id":{"type":"string"},"status":{"type":"string","enum":["` + strings.Join(states, `","`) + `"]},` +
	`"summary":{"type":"object"},"hosts":{"type":"array","items":{"type":"object"}},"page":{"type":"object"},"progress":{"type":"object"},"end":{"type":"object"},` +
	`"host":{"type":"object","description":"what became of the address asked about","properties":{"addr":{"type":"string"},"state":{"type":"string","enum":["` + strings.Join(fates, `","`) + `"]},"rule":{"type":"string"}}},` +
	`"coverage":{"type":"object","description":"as the scan tool has it"},"not_enforced":{"type":"array","items":{"type":"object"}},"artifacts":{"type":"array","items":{"type":"object"}},` +
	`"error":{"type":"object"},"next":{"type":"string"},"poll_after_s":{"type":"integer"}}}`

const listOutputSchema = `{"type":"object","properties":{"jobs":{"type":"array","items":{"type":"object"}},"next_cursor":{"type":"string"},` + errorProperty + `}}`

const previewOutputSchema = `{"type":"object","properties":{"allowed":{"type":"boolean"},"verdict":{"type":"object"},` + scannerProperty + `,` + gapsProperty + `,` +
	`"argv":{"type":"array","items":{"type":"string"}},"argv_words":{"type":"integer"},"expected":{"type":"object","properties":{"packets":{"type":"integer"},"seconds":{"type":"integer"}}},` +
	`"next":{"type":"string"},` + errorProperty + `}}`

const capabilitiesOutputSchema = `{"type":"object","properties":{"engagements":{"type":"array","description":"those that name you; lists are cut, the counts beside them are exact","items":{"type":"object","properties":{` +
	`"name":{"type":"string"},"description":{"type":"string"},"targets":{"type":"array","items":{"type":"string"}},"targets_count":{"type":"integer"},` +
	`"excluded":{"type":"array","items":{"type":"string"}},"excluded_count":{"type":"integer"},"tools":{"type":"array","items":{"type":"string"}},` +
	`"profiles":{"type":"object","description":"of each tool; * is all"},"intrusive":{"type":"string"},"addresses_per_job":{"type":"integer"},"ports_per_address":{"type":"integer"},` +
	`"packets_per_second":{"type":"integer"},"limit_s":{"type":"integer"},"jobs_at_once":{"type":"integer"},"hours":{"type":"string"},"expires":{"type":"string"},` +
	`"open":{"type":"boolean","description":"may be used now"},"closed":{"type":"string","description":"why not"}}}},"engagements_count":{"type":"integer"},"scanners":{"type":"array","items":{"type":"object"}},` +
	`"slots":{"type":"integer"},"running":{"type":"integer"},"queued":{"type":"integer"},` + gapsProperty + `,` + errorProperty + `}}`
