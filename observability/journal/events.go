package journal

import (
	"fmt"
	"log/slog"
	"strings"
)

// Event is a class of log lines that an operator looks for. Its ID never changes: in the journal
// `journalctl MESSAGE_ID=ID` finds them, and `journalctl -x` explains them from the catalogue, which
// is made from this table. In text and JSON its name is the attribute "event".
type Event struct {
	Name    string
	ID      string // of the message, 128 bits in hexadecimal
	Subject string // @FIELD@ stands for the value of a field
	What    string // has happened
	Follows string // from it
	Do      string // by the operator
}

// LogValue is the event as text and JSON show it.
func (e *Event) LogValue() slog.Value { return slog.StringValue(e.Name) }

// Key is that of the attribute with an event.
const Key = "event"

// The events. A line has one by slog's pair Key, event.
var (
	Started = &Event{"started", "cededc0780a54cb4a320f584b65bb0f4",
		"The launcher of secmcpd has started",
		"The launcher has read its configuration, opened its audit log and ended whatever scanner an earlier one may have left.",
		"Agents can connect. Scans that an engagement allows are run once the scope filter has been attacked, or is known to be missing.",
		"There is nothing to do."}
	Stopping = &Event{"stopping", "d45e0f5e10564b8188e57a97e78bd606",
		"The launcher of secmcpd is stopping",
		"The launcher was told to stop.",
		"No new scan is begun. Scans that run are ended; what they have found by then is kept and said to be incomplete.",
		"There is nothing to do, if you stopped it."}
	ScanLaunched = &Event{"scan_launched", "b9c24b9e09084fd196ce9500e7702337",
		"A scan was launched: @SECMCPD_TOOL@, job @SECMCPD_JOB@",
		"Uid @SECMCPD_UID@ asked for a scan, engagement @SECMCPD_ENGAGEMENT@ allows it, and the scanner has been started in its box.",
		"The kernel drops whatever the scanner sends to others than its targets.",
		"Nothing. `secmcpd audit show --job @SECMCPD_JOB@` prints the record of it, with targets and arguments."}
	ScanEnded = &Event{"scan_ended", "a13c61b4b3d34246955aefbfb1360354",
		"A scan has ended: @SECMCPD_TOOL@, job @SECMCPD_JOB@",
		"Nothing of the scan runs any more. It ended by this: @SECMCPD_OUTCOME@.",
		"The result is kept for its caller.",
		"There is nothing to do."}
	ScanRefused = &Event{"scan_refused", "afae6ba41c7146438ea8298c43fb36f3",
		"A scan was refused: @SECMCPD_CODE@",
		"Uid @SECMCPD_UID@ asked for a scan that is not allowed, or that cannot be run now.",
		"Nothing was sent. The caller was told why, and what would be accepted.",
		"If the caller should be allowed to: `secmcpd engagements test` says by which rule it was refused."}
	LimitReached = &Event{"limit_reached", "dce63e1a2ed34c7d80602af0f2d52aed",
		"A scan was ended at a limit: @SECMCPD_OUTCOME@, job @SECMCPD_JOB@",
		"The scan has used all that it may: its time (timeout), its output, its processor time (cpu) or its processes (pids).",
		"What it had found by then is kept, and said to be incomplete.",
		"If this is usual, raise the limit in secmcpd.yaml (`limits`) or in the engagement, or have smaller scans asked for."}
	OutOfMemory = &Event{"out_of_memory", "63ae1ab64ee84b27b58675ad66d49659",
		"A scan ran out of memory: job @SECMCPD_JOB@",
		"The scanner wanted more memory than limits.memory_mib, and the kernel killed it with all that belonged to it. No other process was touched.",
		"What it had found by then is kept, and said to be incomplete.",
		"Have fewer addresses or ports asked for at once, or raise limits.memory_mib."}
	DiskFull = &Event{"disk_full", "fa51270ceaf44101a9c60a804d55fd1a",
		"The disk of the outputs is full",
		"Too little is free in the launcher's state directory for scanners to write.",
		"The scan that has written most is ended, and no new one is begun (disk_full). The audit log has space of its own.",
		"Free some space. Scans are accepted again by themselves."}
	BoxViolation = &Event{"box_violation", "f68d553fc04d474996745015dfed810d",
		"A scanner made a call that no scanner makes: job @SECMCPD_JOB@",
		"The scanner used a system call that its box forbids, and was killed for it.",
		"Nothing of it came through. The audit log has the record `violation`.",
		"Take it as an attack on the scanner by a scanned host, or as a scanner that was exchanged: compare its sha256 (`secmcpd doctor`) and keep the job's artefacts."}
	ScopeViolation = &Event{"scope_violation", "e3a86b1e38cc46e6af12f6c1e8c35a8b",
		"A scanner sent to what its scope does not have: job @SECMCPD_JOB@",
		"The scanner sent packets to others than the targets that were allowed.",
		"The kernel dropped them. The scan goes on to its end; the audit log has the record `scope_violation` with the destinations.",
		"One or a few packets can be a scanner's habit. Many, or to a strange destination, look like a scanner that was taken over: keep the job's artefacts."}
	ScopeLost = &Event{"scope_lost", "3cf7af16a9934cd29838b199a7d2be52",
		"The scope filter was changed by somebody else",
		"Another program removed or changed the rules or programs that keep scans within their targets; a firewall that was reloaded does that.",
		"The scans that were held by it are ended at once, and their links are taken down. The filter is made anew.",
		"Find out what flushes all rules (nftables.service does when it is reloaded), and restart it only while no scan runs."}
	ScopeMissing = &Event{"scope_missing", "d973933c39ff4fa9b5cf9c563b195484",
		"The scope filter is not in force",
		"The kernel's filter could not be made, or let something through when it was attacked at the start.",
		"Scans are refused, unless accept_unenforced names the layer. It is tried again until it is in force.",
		"`secmcpd doctor` names the cause."}
	LaunchFailed = &Event{"launch_failed", "f625fc7d91b1421da2c87029cceb7905",
		"A scan could not be launched",
		"The box of a scan could not be made, at the stage @SECMCPD_STAGE@.",
		"The scan is refused or ends as launch_failed; nothing was sent.",
		"`secmcpd doctor` looks at all that a box needs."}
	BoxAlive = &Event{"box_alive", "8f95e630a2c24eadb52d6055b51d1076",
		"A scanner cannot be ended",
		"Processes of a scan are still there although all were killed: one hangs in the kernel, most likely.",
		"Its place is withheld, so that nobody else runs under its user.",
		"Look for tasks in state D, and restart the launcher once they are gone."}
	AuditUnwritable = &Event{"audit_unwritable", "3f3c61c8358248bdb19084638067fe68",
		"The audit log cannot be written",
		"A record could not be written to the audit log.",
		"Nothing new is launched (audit_unavailable). The ends of the scans that run are kept in memory and written first when it can be written again.",
		"Free some space, or mend the file system of audit_dir. It goes on by itself."}
	AuditTampered = &Event{"audit_tampered", "ad84cc276a7c43eea4251ea7de4d95f6",
		"The audit log was tampered with",
		"The audit log is not as the launcher left it: its end or its head was cut off or written anew while no launcher had it.",
		"The launcher says so in the log and goes on. `secmcpd audit verify` fails from now on.",
		"Keep a copy of audit_dir as evidence and find out who could write there. To begin anew, stop the launcher and put the directory aside."}
	EngagementsRead = &Event{"engagements_read", "94df26decac94d7bb2b14a0bc551e312",
		"The engagements were read",
		"The files in engagements_dir have changed, and were read.",
		"They are in force from now on. Running scans that they no longer allow are ended.",
		"There is nothing to do."}
	EngagementsFaulty = &Event{"engagements_faulty", "66d88d106e1f43a9a528f2f583afc648",
		"An engagement has faults and is not in force",
		"A file in engagements_dir cannot be read, is not safe or has faults.",
		"Nothing new is begun under that engagement; the others stand.",
		"`secmcpd check` names file, line and field of each fault."}
	ConfigReloaded = &Event{"config_reloaded", "2d7faa55b2224bee8fe84f55c6e9ad69",
		"The configuration was read again and is in force",
		"A reload was asked for, by an operator, by systemctl or by SIGHUP, and both rooms found no fault.",
		"New scans have the new settings; those that run have what they were launched with, but for limits of all scans together.",
		"There is nothing to do."}
	ReloadRefused = &Event{"reload_refused", "945835d52137416ca092b77713c3897b",
		"The configuration was read again and is not in force",
		"A reload was asked for, and something in the files has a fault or takes a restart.",
		"Nothing has changed: the settings that were in force before still are. A restart would fail with a fault, though.",
		"Mend what the line names, and `secmcpd reload` again; `secmcpd check` names every fault."}
	ValueClamped = &Event{"value_clamped", "43c28a721b4e441da389448074dbd652",
		"A setting is not as it was said",
		"A number is beyond its bounds, and the nearest bound is used, or a variable of the predecessor was found.",
		"Everything runs, with the value that the line names.",
		"Write what is meant; `secmcpd config show --origin` says where each setting was said."}
	ToolsSwitched = &Event{"tools_switched", "211192c98fe146d3aa47a09932e328a9",
		"Tools were disabled or enabled",
		"An operator has disabled or enabled tools with `secmcpd tools`.",
		"Scans with a disabled tool are refused; those that run go on.",
		"There is nothing to do."}
	ToolsUnknown = &Event{"tools_unknown", "4eb34b9c8e4b48ab95ba8e3630d86239",
		"Which tools are disabled cannot be read",
		"The file in which disabled tools are noted cannot be read.",
		"Every scan is refused until it can be.",
		"Mend or remove tools.yaml in the launcher's state directory."}
	RecordSetAside = &Event{"record_set_aside", "c2044ac457284e579b51c0e5a0ca71e9",
		"A job's record cannot be read and was put aside",
		"At its start the launcher found a record of a scan that it cannot read.",
		"The record is put aside with the scan's outputs; the caller is told that the scan was interrupted.",
		"Look at what is in boxes.broken in the launcher's state directory; after a downgrade it is of the newer version."}
	FrontLost = &Event{"front_lost", "ed5aad0c3bf545cb8a27f57884491a86",
		"The front was lost",
		"The connection from the launcher to the front ended, or could not be made.",
		"Scans that run go on. Agents have to connect again; the front is started when it is needed.",
		"If this comes again and again: `systemctl status secmcpd.service`."}
	LauncherLost = &Event{"launcher_lost", "bc11e3a1038b45e688e88dee726e3ffe",
		"The launcher was lost",
		"The connection from the launcher to the front has ended.",
		"Agents' sessions end with it. What is known of running scans is kept until a launcher says how they ended.",
		"If this comes again and again: `systemctl status secmcpd-launcher.service`."}
	StoreFull = &Event{"store_full", "42554e378cb342478e7f4fae4f6fba3a",
		"There is too little space for results",
		"Less than jobs.free_mib is free in state_dir.",
		"No new scan is begun; those that run are kept.",
		"Free some space, or lower jobs.keep_mib."}
	StoreFreed = &Event{"store_freed", "ce4f751fe0df4f8f915c89c9dd4ba9ae",
		"There is space for results again",
		"Enough is free in state_dir.",
		"New scans are begun again.",
		"There is nothing to do."}
	ResultLost = &Event{"result_lost", "f82eb2a910e84c509a6c41161c14fd2e",
		"A result cannot be kept",
		"The result of a scan is larger than what can be kept, or its job is gone.",
		"The job ends without it; its caller is told.",
		"Have smaller scans asked for."}
	BreakerOpened = &Event{"breaker_opened", "af7e48b2e4b54f1cb6520a0a6410de8e",
		"A breaker has opened: @SECMCPD_BREAKER@",
		"So many scans with this tool, or to this network, have failed that no further one is begun for a while (@SECMCPD_WHY@).",
		"Scans that need it are refused with the time after which to ask again. When that is over, single scans are let through to try it.",
		"`secmcpd breaker` shows what has failed. `secmcpd doctor` looks at the scanners; look at the network yourself."}
	BreakerClosed = &Event{"breaker_closed", "f9968bcdaf9249b89ec5a54520dfadd7",
		"A breaker has closed: @SECMCPD_BREAKER@",
		"The scans that were let through to try it have succeeded, or an operator has closed it.",
		"Scans with this tool, or to this network, are run again.",
		"There is nothing to do."}
	StateSetAside = &Event{"state_set_aside", "7ab1b19115e5464b95e598468ef5fcb4",
		"What a room had kept cannot be read and was set aside",
		"The database of jobs, or the file of the breakers, was damaged, by a disk most likely.",
		"It was put aside whole, what could be read of it was taken over, and a new one was begun. The service goes on.",
		"Look at the disk (`journalctl -k`). Keep what was set aside as long as somebody may miss a result; it is removed when others come."}
	ApprovalAsked = &Event{"approval_asked", "4478cbee06614a599bfd323d85151de5",
		"A scan waits for an approval: job @SECMCPD_JOB@",
		"Uid @SECMCPD_UID@ asked for a scan that engagement @SECMCPD_ENGAGEMENT@ wants approved by an operator.",
		"It waits, in no place that others could have, until @SECMCPD_UNTIL@. Nothing has been sent.",
		"`secmcpd approve @SECMCPD_JOB@` shows exactly what would be run, and asks. `secmcpd deny @SECMCPD_JOB@` refuses it."}
	ApprovalGiven = &Event{"approval_given", "10433e18c414418c8ba117bbc5a14a75",
		"A scan was approved: job @SECMCPD_JOB@",
		"The operator with uid @SECMCPD_BY_UID@ approved the command with the digest @SECMCPD_DIGEST@.",
		"It is run when its turn comes, if its command is still the same then.",
		"There is nothing to do."}
	ApprovalDenied = &Event{"approval_denied", "04fba5fbcbd34470ab9c211b325e190f",
		"A scan was not approved: job @SECMCPD_JOB@",
		"The operator with uid @SECMCPD_BY_UID@ refused it.",
		"The job ends as refused; its caller is told.",
		"There is nothing to do."}
	TokensRead = &Event{"tokens_read", "9269b0436a6e4c3ba835e3c29a20095a",
		"The tokens of HTTP were read: @SECMCPD_COUNT@ are in force",
		"A file of tokens, or this machine's users, have changed.",
		"What came by tokens that are not in force any more was ended; the scans go on.",
		"There is nothing to do, if you know of the change. The audit log has it as `tokens`."}
	TokensFaulty = &Event{"tokens_faulty", "50b0e982269a4e39ae11f37da55c5b7f",
		"No token of HTTP is in force",
		"A file of tokens has faults: @SECMCPD_FAULTS@",
		"Every request over HTTP that needs a token is refused, and what came by tokens was ended.",
		"Mend the file; `secmcpd check` names each fault. It is read again by itself."}
	LoginFailed = &Event{"login_failed", "ca65e1268e434b1780b51c14c6d4cbf9",
		"Somebody came over HTTP with a token that is nobody's",
		"There were @SECMCPD_COUNT@ such requests since it was last told, once a minute at most. Who it was, the kernel does not say over TCP.",
		"They were refused. After 20 at once only one a second is answered as that.",
		"If it is no client with an old token: this machine's users, and whoever reaches a proxy before it, can connect."}
	Ready = &Event{"ready", "067ed20471aa4d0493e964c7201efbfb",
		"Scans can be run",
		"All that a scan needs is there again.",
		"Scans are run.",
		"There is nothing to do."}
	NotReady = &Event{"not_ready", "3abaa766f98440a8b9e42a921fadd782",
		"Scans cannot be run",
		"Something that every scan needs is missing: @SECMCPD_WHY@",
		"Scans are refused or wait. If it is critical, the watchdog is no longer fed, and systemd restarts the service.",
		"`secmcpd status` says what it is, `secmcpd doctor` how to mend it. It is looked at again by itself."}
)

// Events are all of them, in the order of the catalogue.
var Events = []*Event{
	Started,
	Stopping,
	ScanLaunched,
	ScanEnded,
	ScanRefused,
	LimitReached,
	OutOfMemory,
	DiskFull,
	BoxViolation,
	ScopeViolation,
	ScopeLost,
	ScopeMissing,
	LaunchFailed,
	BoxAlive,
	AuditUnwritable,
	AuditTampered,
	EngagementsRead,
	EngagementsFaulty,
	ConfigReloaded,
	ReloadRefused,
	ValueClamped,
	ToolsSwitched,
	ToolsUnknown,
	RecordSetAside,
	FrontLost,
	LauncherLost,
	StoreFull,
	StoreFreed,
	ResultLost,
	BreakerOpened,
	BreakerClosed,
	StateSetAside,
	ApprovalAsked,
	ApprovalGiven,
	ApprovalDenied,
	TokensRead,
	TokensFaulty,
	LoginFailed,
	Ready,
	NotReady,
}

// Catalogue is the text of the journal's catalogue.
func Catalogue() string {
	var b strings.Builder
	b.WriteString("# The messages of secmcpd, explained: journalctl -x shows them. Made from observability/journal.\n")
	for _, e := range Events {
		fmt.Fprintf(&b, "\n-- %s\nSubject: %s\nDefined-By: secmcpd\nSupport: https://github.com/secmcpd/secmcpd/issues\nDocumentation: man:secmcpd(8)\n\n", e.ID, e.Subject)
		b.WriteString(wrapped(e.What) + "\n" + wrapped(e.Follows) + "\n" + wrapped(e.Do))
	}
	return b.String()
}

// wrapped breaks a paragraph into lines of at most 78 letters.
func wrapped(text string) string {
	var b strings.Builder
	at := 0
	for _, word := range strings.Fields(text) {
		switch {
		case at > 0 && at+1+len(word) > 78:
			b.WriteString("\n")
			at = 0
		case at > 0:
			b.WriteString(" ")
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String() + "\n"
}
