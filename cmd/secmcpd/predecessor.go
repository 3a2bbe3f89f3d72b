package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// formerly is a variable of the predecessor: what it is now. It is read only if it is set, and is weaker than every
// SECMCPD_* variable, so that what was written for this program counts.
type formerly struct {
	name string
	key  string                           // the setting that it is now; "": it has no effect
	as   func(text string) (string, bool) // its value as that of key; nil: as it is
	use  string                           // what to use, where there is no key
}

// predecessor are the variables that its manual had. None of them is refused: they may be there for it.
var predecessor = []formerly{
	{"TOOL_INCLUDE", "tools.include", toolClasses, ""},
	{"TOOL_EXCLUDE", "tools.exclude", toolClasses, ""},
	{"MCP_MAX_MEMORY_MB", "limits.memory_mib", nil, ""},
	{"MCP_MAX_FILE_DESCRIPTORS", "limits.open_files", nil, ""},
	{"MCP_MAX_STDOUT_BYTES", "limits.output_mib", inMiB, ""},
	{"MCP_DNS_SERVERS", "resolvers", nil, ""},
	{"MCP_CONFIG_FILE", "", nil, "--config, with a file in this program's form"},
	{"MCP_CONFIG_DIR", "", nil, "--config: conf.d/ beside the file is read, too"},
	{"MCP_MAX_STDERR_BYTES", "", nil, "limits.output_mib, of both outputs together"},
	{"MCP_MAX_ARGS_LEN", "", nil, "the fields of each tool, which have bounds of their own"},
	{"MCP_DEFAULT_TIMEOUT_SEC", "", nil, "limits.duration of an engagement, `limit` of a call"},
	{"MCP_DEFAULT_CONCURRENCY", "", nil, "scans.per_tool, scans.at_once of the machine, limits.jobs of an engagement"},
	{"MCP_TOOL_DEFAULT_TIMEOUT", "", nil, "limits.duration of an engagement, `limit` of a call"},
	{"MCP_TOOL_DEFAULT_CONCURRENCY", "", nil, "scans.per_tool, scans.at_once of the machine, limits.jobs of an engagement"},
	{"TOOL_NMAP_TIMEOUT", "", nil, "limits.duration of an engagement, `limit` of a call"},
	{"TOOL_MASSCAN_RATE", "", nil, "limits.packets_per_second of an engagement, scans.packets_per_second of the machine"},
	{"TOOL_MASSCAN_CONCURRENCY", "", nil, "scans.per_tool, limits.jobs of an engagement"},
	{"TOOLS_PACKAGE", "", nil, "a declaration in runners.d"},
	{"MCP_SECURITY_ALLOWED_TARGETS", "", nil, "targets of an engagement"},
	{"MCP_SECURITY_ALLOW_INTRUSIVE", "", nil, "intrusive of an engagement"},
	{"MCP_SECURITY_MAX_ARGS_LENGTH", "", nil, "the fields of each tool, which have bounds of their own"},
	{"MCP_SECURITY_MAX_OUTPUT_SIZE", "", nil, "limits.output_mib"},
	{"MCP_SECURITY_TIMEOUT_SECONDS", "", nil, "limits.duration of an engagement, `limit` of a call"},
	{"MCP_SECURITY_CONCURRENCY_LIMIT", "", nil, "scans.at_once"},
	{"MCP_SERVER_TRANSPORT", "", nil, "`secmcpd stdio`, the daemon's socket, or secmcpd-http.socket"},
	{"MCP_SERVER_HOST", "", nil, "ListenStream= of secmcpd-http.socket"},
	{"MCP_SERVER_PORT", "", nil, "ListenStream= of secmcpd-http.socket"},
	{"MCP_SERVER_WORKERS", "", nil, "nothing: there is one front"},
	{"MCP_SERVER_MAX_CONNECTIONS", "", nil, "nothing: connections have a bound"},
	{"MCP_SERVER_SHUTDOWN_GRACE_PERIOD", "shutdown.grace", inSeconds, ""},
	{"MCP_CIRCUIT_BREAKER_FAILURE_THRESHOLD", "breakers.failures", nil, ""},
	{"MCP_CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "breakers.recovery", inSeconds, ""},
	{"MCP_CIRCUIT_BREAKER_HALF_OPEN_SUCCESS_THRESHOLD", "breakers.success_threshold", nil, ""},
	{"MCP_HEALTH_CHECK_INTERVAL", "health.every", inSeconds, ""},
	{"MCP_HEALTH_TIMEOUT", "health.timeout", inSeconds, ""},
	{"MCP_HEALTH_CPU_THRESHOLD", "health.cpu_percent", inPercent, ""},
	{"MCP_HEALTH_MEMORY_THRESHOLD", "health.memory_percent", inPercent, ""},
	{"MCP_HEALTH_DISK_THRESHOLD", "health.disk_percent", inPercent, ""},
	{"MCP_HEALTH_DEPENDENCIES", "", nil, "`secmcpd doctor`"},
	{"MCP_METRICS_ENABLED", "", nil, "metrics.textfile"},
	{"MCP_METRICS_PROMETHEUS_ENABLED", "", nil, "metrics.textfile"},
	{"MCP_METRICS_PROMETHEUS_PORT", "", nil, "metrics.textfile, read by node_exporter"},
	{"MCP_METRICS_PORT", "", nil, "metrics.textfile, read by node_exporter"},
	{"MCP_METRICS_COLLECTION_INTERVAL", "metrics.every", inSeconds, ""},
	{"MCP_LOGGING_LEVEL", "log.level", levelWord, ""},
	{"LOG_LEVEL", "log.level", levelWord, ""},
	{"LOG_FORMAT", "log.format", lowerCase, ""},
	{"MCP_LOGGING_FILE_PATH", "", nil, "the journal"},
	{"MCP_LOGGING_MAX_FILE_SIZE", "", nil, "the journal's own limits"},
	{"MCP_LOGGING_BACKUP_COUNT", "", nil, "the journal's own limits"},
	{"MCP_DATABASE_URL", "", nil, "state_dir"},
	{"MCP_DATABASE_POOL_SIZE", "", nil, "nothing"},
	{"MCP_DATABASE_MAX_OVERFLOW", "", nil, "nothing"},
	{"MCP_DATABASE_POOL_TIMEOUT", "", nil, "nothing"},
	{"MCP_DATABASE_POOL_RECYCLE", "", nil, "nothing"},
	{"MCP_CPU_LIMIT", "", nil, "scans.cpu_percent, limits.cpu_percent"},
	{"MCP_MEMORY_LIMIT", "", nil, "scans.memory_mib, limits.memory_mib"},
	{"MCP_VERSION", "", nil, "the version of the package"},
	{"HYDRA_MAX_THREADS", "", nil, "nothing: there is no such tool"},
	{"HYDRA_MAX_PASSWORD_LIST_SIZE", "", nil, "nothing: there is no such tool"},
	{"SQLMAP_MAX_RISK_LEVEL", "", nil, "nothing: there is no such tool"},
	{"SQLMAP_MAX_TEST_LEVEL", "", nil, "nothing: there is no such tool"},
}

// noEffect says what there is instead, if there is anything.
func (f formerly) noEffect() string {
	if why, nothing := strings.CutPrefix(f.use, "nothing"); nothing {
		return "no effect" + why
	}
	return "no effect; use " + f.use
}

// readPredecessor sets what the predecessor's variables say. Each that is there is told, with what says
// it now.
func readPredecessor(environ []string, s *settings) (layers []*strict.Lines, told, faults strict.Faults) {
	for _, f := range predecessor {
		i := slices.IndexFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, f.name+"=") })
		if i < 0 {
			continue
		}
		text := strings.TrimPrefix(environ[i], f.name+"=")
		source := "environment " + f.name
		if f.key == "" {
			told = append(told, strict.Fault{File: source, Hint: "has " + f.noEffect()})
			continue
		}
		told = append(told, strict.Fault{File: source, Field: f.key, Hint: "is " + variable(f.key) + " now, or " + f.key + " in the file"})
		if f.as != nil {
			as, well := f.as(text)
			if !well {
				faults = append(faults, strict.Fault{File: source, Field: f.key, Got: strict.Quote(text), Allowed: "what the predecessor took", Hint: "use " + variable(f.key)})
				continue
			}
			text = as
		}
		lines, wrong := strict.Set(source, f.key, text, s)
		layers, faults = append(layers, lines), append(faults, wrong...)
	}
	return layers, told, faults
}

// inMiB is a number of bytes in MiB, rounded up.
func inMiB(text string) (string, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < 0 || n > 1<<60 {
		return "", false
	}
	return strconv.FormatInt((n+1<<20-1)>>20, 10), true
}

// inPercent is a number of percent, without the fraction that it may have had.
func inPercent(text string) (string, bool) {
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || n != n || n < -1e6 || n > 1e6 {
		return "", false
	}
	return strconv.Itoa(int(n)), true
}

// inSeconds is a number of seconds, which may have a fraction, as a duration.
func inSeconds(text string) (string, bool) {
	d, err := time.ParseDuration(strings.TrimSpace(text) + "s")
	return d.String(), err == nil
}

// levelWord is one of Python's levels as one of ours.
func levelWord(text string) (string, bool) {
	switch word := strings.ToLower(strings.TrimSpace(text)); word {
	case "warning":
		return "warn", true
	case "critical":
		return "error", true
	default:
		return word, true
	}
}

// lowerCase is a word that the predecessor wrote either way.
func lowerCase(text string) (string, bool) { return strings.ToLower(text), true }

// toolClasses are the predecessor's classes, NmapTool,MasscanTool, as tools; a tool's own name is taken,
// too, and * for all. What is none of them is refused as in the file.
func toolClasses(text string) (string, bool) {
	var names []string
	for word := range strings.SplitSeq(text, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		switch {
		case word == "*":
			return "", true
		case word == "":
		case slices.Contains(knownScanners(), strings.TrimSuffix(word, "tool")):
			names = append(names, strings.TrimSuffix(word, "tool")+"_scan")
		default:
			names = append(names, word)
		}
	}
	return strings.Join(names, ","), true
}

// again are the words and own the variables by which another process of this program reads the same.
func (c sources) again() []string {
	words := []string{"--config", c.file}
	for _, s := range c.set {
		words = append(words, "--set", s)
	}
	return words
}

func (c sources) own() []string {
	own := []string{}
	for _, entry := range c.environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "SECMCPD_") || slices.ContainsFunc(predecessor, func(f formerly) bool { return f.name == name }) {
			own = append(own, entry)
		}
	}
	return own
}
