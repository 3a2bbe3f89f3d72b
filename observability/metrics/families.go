package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Family is one metric. The manual's table has a row for each, by a test.
type Family struct {
	Name, Help string
	Type       string // counter, gauge, histogram
	Labels     []string
	bounds     []float64 // of a histogram, in the unit of its name
	desc       *prometheus.Desc
}

func counter(name, help string, labels ...string) *Family {
	return family("counter", name, help, labels, nil)
}

func gauge(name, help string, labels ...string) *Family {
	return family("gauge", name, help, labels, nil)
}

func histogram(name, help string, bounds []float64, labels ...string) *Family {
	return family("histogram", name, help, labels, bounds)
}

func family(kind, name, help string, labels []string, bounds []float64) *Family {
	return &Family{Name: name, Help: help, Type: kind, Labels: labels, bounds: bounds, desc: prometheus.NewDesc(name, help, labels, nil)}
}

// The bounds of histograms: a scan takes seconds to an hour, which is the longest that one may.
var (
	scanSeconds  = []float64{1, 5, 15, 30, 60, 120, 300, 600, 900, 1200, 1800, 2700, 3600}
	waitSeconds  = []float64{0.1, 1, 5, 15, 60, 300, 900, 3600}
	parseSeconds = []float64{0.001, 0.01, 0.1, 0.5, 1, 5, 15, 60}
	memoryBytes  = []float64{16 << 20, 32 << 20, 64 << 20, 128 << 20, 256 << 20, 512 << 20, 1 << 30, 2 << 30, 4 << 30}
)

// Those of the predecessor, by its names: dashboards and rules that were written for it go on.
var (
	executions    = counter("mcp_tool_execution_total", "Scans that have ended, by tool, status (success, failure) and error_type (none where it is a success).", "tool", "status", "error_type")
	executionTime = histogram("mcp_tool_execution_seconds", "How long scanners ran that were started and have ended; not of those whose launcher died.", scanSeconds, "tool")
	active        = gauge("mcp_tool_active", "Scanners that run.", "tool")
	errorsOf      = counter("mcp_tool_errors_total", "Scans that have ended otherwise than well, by tool and error_type.", "tool", "error_type")
	breakerState  = gauge("mcp_circuit_breaker_state", "Breakers, by name: 0 closed, 1 open, 2 half open. Those of target networks are one, network, with the worst state of any.", "name")
	breakerCalls  = counter("mcp_circuit_breaker_calls_total", "Scans that breakers have seen, by name and result (success, failure, rejected).", "name", "result")
	breakerMoves  = counter("mcp_circuit_breaker_transitions_total", "Changes of breakers' states, by name.", "name", "from_state", "to_state")
)

var (
	up    = gauge("secmcpd_up", "1 while the front runs; 0 is the last thing that it writes.")
	build = gauge("secmcpd_build_info", "Always 1; the version is the label.", "version")

	jobs       = gauge("secmcpd_jobs", "Jobs under way, by state: queued, running, or ending (the scanner has ended; its result is not kept yet, or what follows the job runs).", "state")
	unfinished = gauge("secmcpd_jobs_unfinished", "Jobs that the store has as accepted and not ended. At the front's end it is what that leaves to its next start.")
	oldest     = gauge("secmcpd_queue_oldest_seconds", "How long the job that has waited longest for its start has waited.")
	waited     = histogram("secmcpd_queue_wait_seconds", "How long jobs waited for their start, once they have ended.", waitSeconds, "tool")
	slots      = gauge("secmcpd_slots", "Scans that may run at once; less those slots that are withheld.")
	ended      = counter("secmcpd_jobs_ended_total", "Jobs that have ended, by tool, by how the job ended (state), and by what ended its scanner (reason): exited by itself, or one of its limits.", "tool", "state", "reason")
	launches   = counter("secmcpd_launches_total", "Scanners that were started and have ended.", "tool")
	unlaunched = counter("secmcpd_launch_failures_total", "Scans whose box could not be built, by the stage at which it failed.", "stage")
	refusals   = counter("secmcpd_refusals_total", "Calls and jobs that were refused, by code; other is every code that is not in the manual's list.", "code")
	calls      = counter("secmcpd_calls_total", "Calls of tools, by outcome: answered, refused, or failed by a fault of the daemon.", "tool", "outcome")

	packets    = counter("secmcpd_packets_total", "Packets of jobs that have ended, by tool and by what the kernel's filter did with them (fate): sent and received passed; off_scope, form and over_rate were dropped on the way out, refused on the way in.", "tool", "fate")
	violations = counter("secmcpd_scope_violations_total", "Jobs that have ended of which the kernel dropped a packet to what their scope does not have.", "tool")
	budget     = gauge("secmcpd_budget_packets_per_second", "Packets per second of all jobs that run: allowed by the machine's budget, and reserved out of it.", "share")

	cpu       = counter("secmcpd_scan_cpu_seconds_total", "Processor time of scans that have ended, of their cgroups.", "tool")
	throttled = counter("secmcpd_scan_throttled_seconds_total", "How long scans that have ended were kept from the processor by the limit of their share.", "tool")
	memory    = histogram("secmcpd_scan_memory_peak_bytes", "Memory of scans that have ended, each at its highest, of their cgroups.", memoryBytes, "tool")
	pressure  = counter("secmcpd_scan_pressure_seconds_total", "How long some task of scans that have ended waited, by resource: cpu, memory, io.", "tool", "resource")
	disk      = counter("secmcpd_scan_disk_bytes_total", "Bytes that scans that have ended moved, by direction: read from disks, or written to them.", "tool", "direction")
	pids      = counter("secmcpd_scan_processes_refused_total", "Processes and threads that the limit refused to scans that have ended.", "tool")
	output    = counter("secmcpd_scan_output_bytes_total", "Bytes that scans that have ended wrote to their outputs.", "tool")

	parse  = histogram("secmcpd_parse_seconds", "Time spent on reading the report of a job that has ended, without waiting for it to grow.", parseSeconds, "tool")
	parsed = counter("secmcpd_parsed_bytes_total", "Bytes of reports that were read, of jobs that have ended.", "tool")
	cut    = counter("secmcpd_results_cut_total", "Results of which something was left out as too much.", "tool")

	sessions   = gauge("secmcpd_sessions", "Agents' connections.")
	clients    = gauge("secmcpd_clients", "Users that have a connection.")
	sessionsOf = counter("secmcpd_sessions_total", "Agents' connections that have begun.")

	space       = gauge("secmcpd_state_bytes", "Bytes where results are kept: kept of jobs that have ended and allowed for them, free on the disk and reserved of it; below that no new job is begun.", "share")
	kept        = gauge("secmcpd_jobs_kept", "Jobs that have ended and are kept.")
	storeErrors = counter("secmcpd_store_errors_total", "Writes to the store that failed.")

	launcher     = gauge("secmcpd_launcher_connected", "1 while the front has its launcher.")
	audited      = counter("secmcpd_audit_records_total", "Records of the audit log.")
	auditBytes   = gauge("secmcpd_audit_bytes", "Bytes of the files of the audit log.")
	auditFiles   = gauge("secmcpd_audit_files", "Files of the audit log.")
	unwritable   = gauge("secmcpd_audit_unwritable", "1 while the audit log cannot be written: nothing is launched.")
	auditPending = gauge("secmcpd_audit_pending_records", "Records that wait until the audit log can be written.")

	health = gauge("secmcpd_health_status", "Checks of health, by the room that looks, its name and its priority (critical, important, informational): 0 healthy, 1 degraded, 2 unhealthy.", "room", "check", "priority")

	resident   = gauge("secmcpd_process_resident_bytes", "Memory of a process of the daemon, by room: front or launcher.", "room")
	cpuOf      = counter("secmcpd_process_cpu_seconds_total", "Processor time of a process of the daemon, without its scans.", "room")
	goroutines = gauge("secmcpd_process_goroutines", "Goroutines of a process of the daemon.", "room")
	files      = gauge("secmcpd_process_open_files", "Open files of a process of the daemon.", "room")
	started    = gauge("secmcpd_process_start_time_seconds", "When a process of the daemon started, in seconds since 1970.", "room")
)

// families are all that there are, in the order of the manual.
var families = []*Family{
	executions, executionTime, active, errorsOf, breakerState, breakerCalls, breakerMoves,
	up, build,
	jobs, unfinished, oldest, waited, slots, ended, launches, unlaunched, refusals, calls,
	packets, violations, budget,
	cpu, throttled, memory, pressure, disk, pids, output,
	parse, parsed, cut,
	sessions, clients, sessionsOf,
	space, kept, storeErrors,
	launcher, audited, auditBytes, auditFiles, unwritable, auditPending,
	health,
	resident, cpuOf, goroutines, files, started,
}

// Families are all metrics that there are.
func Families() []*Family { return slices.Clone(families) }

// The words that labels may have. What is on no list is Other.
const Other = "other"

// ErrorTypes are those of mcp_tool_execution_total and mcp_tool_errors_total: the predecessor's, and
// cancelled and interrupted, which are no error of the tool.
var ErrorTypes = []string{Timeout, NotFound, Validation, Execution, Exhausted, BreakerOpen, Cancelled, Interrupted}

// The error types.
const (
	None        = "none"                 // a success
	Timeout     = "timeout"              // its time was up
	NotFound    = "not_found"            // its scanner cannot be used
	Validation  = "validation_error"     // refused
	Execution   = "execution_error"      // the launch or the scanner failed
	Exhausted   = "resource_exhausted"   // a limit other than that of time ended it
	BreakerOpen = "circuit_breaker_open" // refused by a breaker
	Cancelled   = "cancelled"            // by its caller, or its engagement was narrowed
	Interrupted = "interrupted"          // the daemon was stopped or died, or lost the kernel's filter
)

// Stages are those at which a launch can fail, in their order: the launcher's, the sandbox's, and the
// steps of the box itself.
var Stages = []string{"gate", "scanner", "command", "connections", "segment", "scope", "outputs", "audit",
	"open", "spec", "hand over", "cgroup", "fit", "files", "filter", "queue", "launch", "clone",
	"out of memory", "begin", "network", "cgroup namespace", "keyring", "root", "own process", "working directory", "host name", "limits", "bounding set",
	"user", "capabilities", "no new privileges", "death signal", "landlock", "signals", "descriptors", "seccomp", "exec", Other}

// Outcomes are those of a call.
var Outcomes = []string{"answered", "refused", "failed"}

// Breaker states, by what mcp_circuit_breaker_state says.
var BreakerStates = []string{"closed", "open", "half_open"}

// HealthStates are what a check says, by what secmcpd_health_status says.
var HealthStates = []string{"healthy", "degraded", "unhealthy"}

// Among is word if the list has it, or Other.
func Among(list []string, word string) string {
	if slices.Contains(list, word) {
		return word
	}
	return Other
}

// Codes are those of refusals: policy's, the launcher's, and the front's. Faults of arguments are one,
// Arguments.
var Codes = []string{
	"no_engagement", "engagement_suspended", "not_a_caller", "expired", "outside_hours", "tool_not_allowed", "profile_not_allowed",
	"target_out_of_scope", "target_excluded", "target_never", "name_not_allowed", "port_not_allowed", "port_excluded", "name_unresolved", "name_outside_scope",
	"too_many_addresses", "too_many_ports", "rate_too_high", "duration_too_long", "intrusive", "approval_unavailable",

	"approval_denied", "approval_expired", "approval_needed", "approval_stale", "audit_unavailable", "bad_value", "breaker_open", "busy", "caller_gone", "cannot_finish", "confirmation_needed", "declaration_changed", "disk_full", "draining", "front_gone", "job_exists",
	"launch_failed", "no_command", "no_resolver", "no_slot", "not_enforced", "off_segment", "records_unavailable", "scanner_missing", "scope_unavailable",
	"stopping", "too_many_approvals", "too_many_connections", "too_many_jobs", "tool_disabled", "unknown_wordlist", "wordlist_unusable",

	Arguments, "launcher_unreachable", "no_such_job", "no_such_pin", "no_such_task", "not_confirmed", "store_unavailable", "too_many_pins", "under_way",
	Other,
}

// Arguments is the code of a call with faulty arguments.
const Arguments = "arguments"
