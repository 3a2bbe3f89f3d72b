package main

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/front"
	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// settings is the configuration as it is written in secmcpd.yaml and conf.d/, in the environment and in
// flags, whose names follow from the keys: this struct is the one table of them. Each layer says only
// what differs; a later one wins, key by key. The zero of a key is never a default: defaults come from
// defaultSettings, which the manual prints. Tags: see keysOf.
type settings struct {
	FrontUser        string            `yaml:"front_user"`            // name or number of the front's user
	FrontSocket      string            `yaml:"front_socket"`          // where the launcher finds the front
	BellSocket       string            `yaml:"bell_socket"`           // by which the front asks the launcher to connect
	AdminSocket      string            `yaml:"admin_socket"`          // where operators find the front
	LauncherAdmin    string            `yaml:"launcher_admin_socket"` // and the launcher
	StateDir         string            `yaml:"state_dir"`             // the front's: jobs and results
	LauncherStateDir string            `yaml:"launcher_state_dir"`    // the launcher's: records of running scans
	AuditDir         string            `yaml:"audit_dir"`
	EngagementsDir   string            `yaml:"engagements_dir"`
	RunnersDir       string            `yaml:"runners_dir"`                    // of declared scanners
	AcceptUnenforced []string          `yaml:"accept_unenforced" reload:"yes"` // layers of protection that may be missing
	Resolvers        []string          `yaml:"resolvers" reload:"yes"`         // ADDRESS or ADDRESS:PORT; empty: the machine's own
	Scanners         map[string]string `yaml:"scanners" reload:"yes"`          // name to absolute path
	Tools            toolSettings      `yaml:"tools" reload:"yes"`
	Wordlists        wordlistSettings  `yaml:"wordlists" reload:"yes"`
	Scans            scanSettings      `yaml:"scans"`
	Slots            slotSettings      `yaml:"slots"`
	Limits           limitSettings     `yaml:"limits" reload:"yes"`
	Jobs             jobSettings       `yaml:"jobs" reload:"yes"`
	Metrics          metricSettings    `yaml:"metrics" reload:"yes"`
	Log              logSettings       `yaml:"log"`
	Breakers         breakerSettings   `yaml:"breakers" reload:"yes"`
	Health           healthSettings    `yaml:"health"`
	HTTP             httpSettings      `yaml:"http"`
	Front            frontSettings     `yaml:"front"`
	Approvals        approvalSettings  `yaml:"approvals" reload:"yes"`
	Shutdown         shutdownSettings  `yaml:"shutdown" reload:"yes"`

	from *said
}

// httpSettings are of the socket that secmcpd-http.socket opens, if it is switched on.
type httpSettings struct {
	Tokens  string   `yaml:"tokens"`  // root's file of whose they are
	Hosts   []string `yaml:"hosts"`   // by which a request may call this machine, beside localhost
	Origins []string `yaml:"origins"` // of pages that may make one
}

type frontSettings struct {
	IdleExit time.Duration `yaml:"idle_exit"` // without a session or a job; 0: never
}

type scanSettings struct {
	AtOnce int `yaml:"at_once"`             // 1 to 64
	Queued int `yaml:"queued" reload:"yes"` // 0 to 1024
	// All together, beside the limits of each.
	MemoryMiB  int `yaml:"memory_mib" reload:"yes"`
	Processes  int `yaml:"processes" reload:"yes"`
	CPUPercent int `yaml:"cpu_percent" reload:"yes"` // of one processor
	IOMiB      int `yaml:"io_mib" reload:"yes"`      // a second from each disk, and as much to it
	Packets    int `yaml:"packets_per_second" reload:"yes"`
	// Of one tool at once; a tool that is not named has no bound of its own.
	PerTool map[string]int `yaml:"per_tool" reload:"yes"`
}

// breakerSettings are the rules of the breakers of networks, and of tools without rules of their own.
type breakerSettings struct {
	Enabled      bool                     `yaml:"enabled"`
	Failures     int                      `yaml:"failures"`          // in a row
	Successes    int                      `yaml:"success_threshold"` // of probes in a row
	Recovery     time.Duration            `yaml:"recovery"`
	MaxRecovery  time.Duration            `yaml:"max_recovery"`
	Multiplier   factor                   `yaml:"multiplier"`
	Probes       int                      `yaml:"probes"` // at once
	ToolFailures map[string]int           `yaml:"tool_failures"`
	ToolRecovery map[string]time.Duration `yaml:"tool_recovery"`
}

const bpf = "bpf"

// filters are what slots.filter may be. nf_tables is under BPF in any case, and in its place where
// it cannot be had.
var filters = []string{bpf, "nftables"}

type slotSettings struct {
	Mode      scope.Mode   `yaml:"mode"`      // how scans leave this machine
	Interface string       `yaml:"interface"` // of the segment that scans stand on, in the mode l2
	Filter    string       `yaml:"filter"`    // what holds scans to their scope: one of filters
	FirstUID  int          `yaml:"first_uid"` // at_once+3 uids from here belong to boxes
	IPv4      netip.Prefix `yaml:"ipv4"`      // the range of the slots' links
	IPv6      netip.Prefix `yaml:"ipv6"`
}

type limitSettings struct {
	MemoryMiB  int           `yaml:"memory_mib"`
	Processes  int           `yaml:"processes"`
	CPUPercent int           `yaml:"cpu_percent"` // of one processor
	CPUTime    time.Duration `yaml:"cpu_time"`
	IOMiB      int           `yaml:"io_mib"` // a second from each disk, and as much to it
	OutputMiB  int           `yaml:"output_mib"`
	TmpMiB     int           `yaml:"tmp_mib"`
	OpenFiles  int           `yaml:"open_files"`
}

// toolSettings leave tools out, for both rooms; `secmcpd tools` does it for a while.
type toolSettings struct {
	Include []string `yaml:"include"` // these alone; none: all
	Exclude []string `yaml:"exclude"`
}

type wordlistSettings struct {
	Directories []string `yaml:"directories"` // of root's files, NAME.txt or NAME
}

type jobSettings struct {
	Keep    int           `yaml:"keep"`     // finished jobs of each user
	KeepMiB int           `yaml:"keep_mib"` // results and artefacts of all users
	KeepFor time.Duration `yaml:"keep_for"`
	FreeMiB int           `yaml:"free_mib"` // left in state_dir, or no new job is begun
}

type shutdownSettings struct {
	Grace time.Duration `yaml:"grace"` // that running scans have when the launcher is stopped
}

type approvalSettings struct {
	Within time.Duration `yaml:"within"` // that a scan waits for one, whatever its engagement says
}

type metricSettings struct {
	Textfile string        `yaml:"textfile"` // for node_exporter; empty: none
	Every    time.Duration `yaml:"every"`    // between two of its writings
}

type logSettings struct {
	Level  string `yaml:"level" reload:"yes"` // the least that is written: one of journal.Levels
	Format string `yaml:"format"`             // one of journal.Formats
}

// factor is a decimal number of at most two places, as 1.5.
type factor float64

var decimalFactor = regexp.MustCompile(`^[0-9]{1,4}(\.[0-9]{1,2})?$`)

// ReadScalar reads one.
func (f *factor) ReadScalar(text string) *strict.Fault {
	if !decimalFactor.MatchString(text) {
		return &strict.Fault{Allowed: "a number such as 2 or 1.5"}
	}
	n, err := strconv.ParseFloat(text, 64)
	*f = factor(n)
	if err != nil {
		return &strict.Fault{Allowed: "a number such as 2 or 1.5"}
	}
	return nil
}

// healthSettings are of what each room looks at: above a share of the machine it is degraded.
type healthSettings struct {
	Every         time.Duration `yaml:"every"`   // between two looks
	Timeout       time.Duration `yaml:"timeout"` // of one
	CPUPercent    int           `yaml:"cpu_percent"`
	MemoryPercent int           `yaml:"memory_percent"`
	DiskPercent   int           `yaml:"disk_percent"`
}

func (h healthSettings) forRooms() health.Settings {
	return health.Settings{Every: h.Every, Timeout: h.Timeout, CPU: h.CPUPercent, Memory: h.MemoryPercent, Disk: h.DiskPercent}
}

func defaultSettings() settings {
	return settings{
		FrontUser:        "secmcpd",
		FrontSocket:      "/run/secmcpd/front.sock",
		BellSocket:       "/run/secmcpd/bell.sock",
		AdminSocket:      "/run/secmcpd/admin.sock",
		LauncherAdmin:    "/run/secmcpd/launcher-admin.sock",
		StateDir:         "/var/lib/secmcpd",
		LauncherStateDir: "/var/lib/secmcpd-launcher",
		AuditDir:         "/var/log/secmcpd",
		EngagementsDir:   "/etc/secmcpd/engagements.d",
		RunnersDir:       "/etc/secmcpd/runners.d",
		Scanners:         map[string]string{"nmap": "/usr/bin/nmap", "masscan": "/usr/bin/masscan", "gobuster": "/usr/bin/gobuster"},
		Wordlists:        wordlistSettings{Directories: []string{"/usr/share/secmcpd/wordlists"}},
		Scans:            scanSettings{AtOnce: 4, Queued: 64, MemoryMiB: 1536, Processes: 128, CPUPercent: 200, IOMiB: 128, Packets: 10000, PerTool: map[string]int{"masscan_scan": 1}},
		// 66000 lies between the users of the distributions (below 65536) and the ranges of
		// containers (from 100000).
		Slots: slotSettings{Mode: scope.Translated, Filter: bpf, FirstUID: 66000, IPv4: netip.MustParsePrefix("10.254.200.0/22"), IPv6: netip.MustParsePrefix("fd5e:c0de:5ca1::/48")},
		Limits: limitSettings{MemoryMiB: 512, Processes: 32, CPUPercent: 100, CPUTime: time.Hour, IOMiB: 64, OutputMiB: 64, TmpMiB: 16,
			OpenFiles: 512},
		Jobs:    jobSettings{Keep: 1000, KeepMiB: 2048, KeepFor: 90 * 24 * time.Hour, FreeMiB: 128},
		Metrics: metricSettings{Textfile: "/run/secmcpd-metrics/secmcpd.prom", Every: 15 * time.Second},
		Log:     logSettings{Level: "info", Format: journal.Auto},
		Breakers: breakerSettings{Enabled: true, Failures: 5, Successes: 1, Recovery: time.Minute, MaxRecovery: 5 * time.Minute, Multiplier: 1.5, Probes: 1,
			ToolFailures: map[string]int{"nmap_scan": 5, "masscan_scan": 3, "gobuster_scan": 4},
			ToolRecovery: map[string]time.Duration{"nmap_scan": 2 * time.Minute, "masscan_scan": 90 * time.Second, "gobuster_scan": 3 * time.Minute}},
		Health:    healthSettings{Every: 30 * time.Second, Timeout: 10 * time.Second, CPUPercent: 80, MemoryPercent: 80, DiskPercent: 80},
		HTTP:      httpSettings{Tokens: "/etc/secmcpd/http-tokens"},
		Front:     frontSettings{IdleExit: 10 * time.Minute},
		Approvals: approvalSettings{Within: time.Hour},
		Shutdown:  shutdownSettings{Grace: 30 * time.Second},
	}
}

// maxSettingsFile bounds one file, maxSettingsFiles their number.
const (
	maxSettingsFile  = 1 << 20
	maxSettingsFiles = 64
)

// loadSettings reads every layer of the configuration. Every fault of all of them comes back at once.
func loadSettings(from sources) (settings, error) {
	s, _, err := readSettings(from)
	return s, err
}

// readSettings is loadSettings with what it takes to find more faults: where a field was said.
// With faults the settings are what could be read of them.
func readSettings(from sources) (settings, faultAt, error) {
	s := defaultSettings()
	s.from = &said{}
	at := whence(from.file, s.from)
	files, err := settingsFiles(from.file)
	if err != nil {
		return s, at, exitError{exitConfig, err}
	}
	var faults strict.Faults
	for _, file := range files {
		data, err := readBounded(file, maxSettingsFile)
		if err != nil {
			return s, at, exitError{exitConfig, fmt.Errorf("cannot read the configuration: %w", err)}
		}
		s.from.read = append(s.from.read, file, fmt.Sprintf("%x", sha256.Sum256(data)))
		lines, wrong := strict.Decode(file, data, &s)
		faults = append(faults, wrong...)
		s.from.layers = append(s.from.layers, lines)
	}
	layers, told, wrong := readPredecessor(from.environ, &s)
	s.from.layers, faults = append(s.from.layers, layers...), append(faults, wrong...)
	layers, wrong = readEnvironment(from.environ, &s)
	s.from.layers, faults = append(s.from.layers, layers...), append(faults, wrong...)
	layers, wrong = readFlags(from.set, &s)
	s.from.layers, faults = append(s.from.layers, layers...), append(faults, wrong...)
	for _, f := range s.check(at) {
		// What could not be read has its fault already.
		if !slices.ContainsFunc(s.from.layers, func(l *strict.Lines) bool { return l.Bad(f.Field) }) {
			faults = append(faults, f)
		}
	}
	s.from.warnings = append(told, s.from.warnings...)
	redactIn(s.keys(), faults)
	redactIn(s.keys(), s.from.warnings)
	if len(faults) > 0 {
		return s, at, exitError{exitConfig, faults}
	}
	return s, at, nil
}

// faultAt makes a fault of meaning in the layer that has the field last, or in the first file.
type faultAt func(field, got, allowed, hint string) strict.Fault

func whence(path string, o *said) faultAt {
	return func(field, got, allowed, hint string) strict.Fault {
		for _, lines := range slices.Backward(o.layers) {
			if lines.Has(field) {
				return lines.Fault(field, got, allowed, hint)
			}
		}
		return strict.Fault{File: path, Line: 1, Field: field, Got: got, Allowed: allowed, Hint: hint}
	}
}

func settingsFiles(path string) ([]string, error) {
	files := []string{path}
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeDir == 0 && strings.HasSuffix(e.Name(), ".yaml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) > maxSettingsFiles {
		return nil, fmt.Errorf("cannot read the configuration: %d files, at most %d are read", len(files), maxSettingsFiles)
	}
	return files, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// bounds are those of every number. A number of the predecessor's that it clamped is clamped here, too.
func (s *settings) bounds() []bounds {
	const least, most = int64(time.Minute), int64(10 * 365 * 24 * time.Hour)
	all := []bounds{
		{"scans.at_once", 1, 64, clamp},
		{"scans.queued", 0, 1024, refuse},
		{"slots.first_uid", 1, 1<<31 - 100, refuse},
		{"limits.memory_mib", 32, 1 << 20, refuse},
		{"limits.processes", 8, 4096, refuse},
		{"limits.cpu_percent", 1, 100 * 1024, refuse},
		{"limits.cpu_time", least, most, refuse},
		{"limits.io_mib", 1, 1 << 20, refuse},
		{"scans.memory_mib", max(int64(s.Limits.MemoryMiB), 32), 1 << 20, refuse},
		{"scans.processes", max(int64(s.Limits.Processes), 8), 65536, refuse},
		{"scans.cpu_percent", 1, 100 * 1024, refuse},
		{"scans.io_mib", 1, 1 << 20, refuse},
		{"scans.packets_per_second", 10, 10_000_000, refuse},
		{"limits.output_mib", 1, 16 << 10, clamp},
		{"limits.tmp_mib", 1, 16 << 10, refuse},
		{"limits.open_files", 64, 65536, refuse},
		{"jobs.keep", 1, 1000000, refuse},
		{"jobs.keep_for", least, most, refuse},
		{"jobs.free_mib", 8, 1 << 20, refuse},
		{"jobs.keep_mib", 16, 1 << 30, refuse},
		{"health.cpu_percent", 0, 100, clamp},
		{"health.memory_percent", 0, 100, clamp},
		{"health.disk_percent", 0, 100, clamp},
		{"health.every", int64(5 * time.Second), int64(5 * time.Minute), clamp},
		{"health.timeout", int64(time.Second), int64(time.Minute), clamp},
		{"metrics.every", int64(5 * time.Second), int64(5 * time.Minute), clamp},
		{"shutdown.grace", 0, int64(5 * time.Minute), clamp},
		{"approvals.within", int64(time.Minute), int64(24 * time.Hour), refuse},
		{"breakers.failures", 1, 100, clamp},
		{"breakers.success_threshold", 1, 10, clamp},
		{"breakers.probes", 1, 16, refuse},
		{"breakers.recovery", int64(time.Second), int64(10 * time.Minute), clamp},
	}
	if s.Front.IdleExit != 0 { // never
		all = append(all, bounds{"front.idle_exit", int64(time.Second), int64(30 * 24 * time.Hour), refuse})
	}
	for name := range s.Scans.PerTool {
		all = append(all, bounds{strict.Key("scans.per_tool", name), 1, 64, refuse})
	}
	longest := s.Breakers.Recovery
	for name := range s.Breakers.ToolFailures {
		all = append(all, bounds{strict.Key("breakers.tool_failures", name), 1, 10, clamp})
	}
	for name, d := range s.Breakers.ToolRecovery {
		all = append(all, bounds{strict.Key("breakers.tool_recovery", name), int64(30 * time.Second), int64(10 * time.Minute), clamp})
		longest = max(longest, d)
	}
	// At least as long as each recovery, each within its own bounds.
	return append(all, bounds{"breakers.max_recovery", int64(min(max(longest, time.Second), 10*time.Minute)), int64(time.Hour), refuse})
}

// check says what is wrong with the meaning of well-formed settings, and clamps what is clamped.
func (s *settings) check(at faultAt) (faults strict.Faults) {
	wrong := func(field string, got any, allowed, hint string) {
		faults = append(faults, at(field, strict.Quote(fmt.Sprint(got)), allowed, hint))
	}
	if s.from == nil {
		s.from = &said{}
	}
	var beyond strict.Faults
	s.from.clamped, s.from.warnings, beyond = s.within(s.bounds(), at)
	faults = append(faults, beyond...)
	for field, p := range map[string]string{"front_socket": s.FrontSocket, "bell_socket": s.BellSocket, "http.tokens": s.HTTP.Tokens, "admin_socket": s.AdminSocket, "launcher_admin_socket": s.LauncherAdmin, "state_dir": s.StateDir, "launcher_state_dir": s.LauncherStateDir,
		"audit_dir": s.AuditDir, "engagements_dir": s.EngagementsDir, "runners_dir": s.RunnersDir} {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p {
			wrong(field, p, "an absolute path", "")
		}
	}
	faults = append(faults, s.checkTools(at)...)
	if p := s.Metrics.Textfile; p != "" && (!filepath.IsAbs(p) || filepath.Clean(p) != p || filepath.Ext(p) != ".prom") {
		wrong("metrics.textfile", p, "an absolute path that ends in .prom, or nothing", "node_exporter reads no other file")
	}
	for i, host := range s.HTTP.Hosts {
		if host == "" || strings.ContainsAny(host, "/: ") && !strings.HasPrefix(host, "[") {
			wrong(strict.Index("http.hosts", i), host, "a name or an address, without a port", "")
		}
	}
	for i, origin := range s.HTTP.Origins {
		if u, err := url.Parse(origin); err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			wrong(strict.Index("http.origins", i), origin, "scheme://host or scheme://host:port, as browsers write it", "")
		}
	}
	for name, p := range s.Scanners {
		field := strict.Key("scanners", name)
		if !slices.Contains(knownScanners(), name) {
			wrong(field, name, strings.Join(knownScanners(), ", "), "")
		} else if !filepath.IsAbs(p) {
			wrong(field, p, "an absolute path", "`command -v "+name+"` prints it")
		}
	}
	for field, names := range map[string][]string{"tools.include": s.Tools.Include, "tools.exclude": s.Tools.Exclude} {
		for i, name := range names {
			if known := s.toolNames(); !slices.Contains(known, name) {
				wrong(strict.Index(field, i), name, strings.Join(known, ", "), near(name, known))
			}
		}
	}
	for i, p := range s.Wordlists.Directories {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p {
			wrong(strict.Index("wordlists.directories", i), p, "an absolute path", "")
		}
	}
	for i, layer := range s.AcceptUnenforced {
		if known := knownLayers(); !slices.Contains(known, layer) {
			wrong(strict.Index("accept_unenforced", i), layer, strings.Join(known, ", "), near(layer, known))
		}
	}
	if modes := scope.Modes(); !slices.Contains(modes, s.Slots.Mode) {
		var allowed []string
		for _, m := range modes {
			allowed = append(allowed, string(m))
		}
		wrong("slots.mode", s.Slots.Mode, strings.Join(allowed, ", "), near(string(s.Slots.Mode), allowed))
	}
	for _, w := range []struct {
		field, got string
		allowed    []string
	}{{"log.level", s.Log.Level, journal.Levels}, {"log.format", s.Log.Format, journal.Formats}} {
		if !slices.Contains(w.allowed, w.got) {
			wrong(w.field, w.got, strings.Join(w.allowed, ", "), near(w.got, w.allowed))
		}
	}
	if !slices.Contains(filters, s.Slots.Filter) {
		wrong("slots.filter", s.Slots.Filter, strings.Join(filters, ", "), near(s.Slots.Filter, filters))
	}
	if s.Slots.Mode == scope.L2 && s.Slots.Filter != bpf {
		wrong("slots.filter", s.Slots.Filter, bpf, "the mode l2 needs it")
	}
	if l2 := s.Slots.Mode == scope.L2; l2 != (s.Slots.Interface != "") {
		wrong("slots.interface", s.Slots.Interface, "the interface of the segment in the mode l2, nothing in others", "")
	}
	// The whole range is never a target, and hosts need a route to it: it is private and no wider than it has to be.
	if s.Slots.Mode == scope.L2 {
		// Here it is a part of the segment's network.
		if p := s.Slots.IPv4; !p.Addr().Is4() || p.Bits() < 16 || p.Bits() > 27 || p != p.Masked() {
			wrong("slots.ipv4", p, "an IPv4 prefix of length 16 to 27, without host bits", "in the mode l2 it lies in the network of slots.interface")
		}
		if p := s.Slots.IPv6; p.IsValid() && (!p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() < 65 || p.Bits() > 123 || p != p.Masked()) {
			wrong("slots.ipv6", p, "an IPv6 prefix of length 65 to 123, without host bits, or \"\"", "in the mode l2 it lies in the network of slots.interface")
		}
		// Three addresses are no scan's; links that are ready have as many more.
		if room := 1<<(32-max(s.Slots.IPv4.Bits(), 16)) - 3 - 9; s.Slots.IPv4.IsValid() && s.Slots.IPv4.Bits() <= 27 && s.Scans.AtOnce > room {
			wrong("scans.at_once", s.Scans.AtOnce, fmt.Sprintf("1 to %d", room), fmt.Sprintf("slots.ipv4 %s has no more addresses: widen it", s.Slots.IPv4))
		}
	} else if p := s.Slots.IPv4; !p.Addr().Is4() || !p.Addr().IsPrivate() || p.Bits() < 16 || p.Bits() > 24 || p != p.Masked() {
		wrong("slots.ipv4", p, "a private IPv4 prefix (RFC 1918) of length 16 to 24, without host bits", "")
	}
	if p := s.Slots.IPv6; s.Slots.Mode != scope.L2 && (!p.Addr().Is6() || !p.Addr().IsPrivate() || p.Bits() < 40 || p.Bits() > 112 || p != p.Masked()) {
		wrong("slots.ipv6", p, "a unique local IPv6 prefix (fd00::/8) of length 40 to 112, without host bits", "")
	}
	for i, text := range s.Resolvers {
		switch a, err := resolver(text); {
		case err != nil:
			wrong(strict.Index("resolvers", i), text, "ADDRESS or ADDRESS:PORT", "")
		case a.Addr().Unmap().IsLoopback():
			wrong(strict.Index("resolvers", i), text, "a name server that a box can reach", "a box has a loopback of its own: name the servers behind it")
		}
	}
	if uid, err := strconv.ParseUint(s.FrontUser, 10, 32); err == nil {
		if err := s.apart(uint32(uid)); err != nil {
			wrong("front_user", s.FrontUser, "a user of the front's own", err.Error())
		}
	}
	slices.SortFunc(faults, func(a, b strict.Fault) int { return strings.Compare(a.String(), b.String()) })
	return faults
}

// checkTools says what is wrong with the settings of single tools, and with the breakers'.
func (s *settings) checkTools(at faultAt) (faults strict.Faults) {
	wrong := func(field string, got any, allowed, hint string) {
		faults = append(faults, at(field, strict.Quote(fmt.Sprint(got)), allowed, hint))
	}
	tool := func(key, name string) {
		if known := s.toolNames(); !slices.Contains(known, name) {
			wrong(strict.Key(key, name), name, strings.Join(known, ", "), near(name, known))
		}
	}
	for name := range s.Scans.PerTool {
		tool("scans.per_tool", name)
	}
	b := s.Breakers
	for name := range b.ToolFailures {
		tool("breakers.tool_failures", name)
	}
	for name := range b.ToolRecovery {
		tool("breakers.tool_recovery", name)
	}
	if b.Multiplier < 1 || b.Multiplier > 10 {
		wrong("breakers.multiplier", b.Multiplier, "1 to 10", "")
	}
	return faults
}

// breakers turns the settings into what the launcher is told.
func (s *settings) breakers() launcher.Breakers {
	b := s.Breakers
	out := launcher.Breakers{Enabled: b.Enabled, Tools: map[string]policy.BreakerRules{},
		Rules: policy.BreakerRules{Failures: b.Failures, Successes: b.Successes, Recovery: b.Recovery, MaxRecovery: b.MaxRecovery, Multiplier: float64(b.Multiplier), Probes: b.Probes}}
	rules := func(tool string) policy.BreakerRules {
		if own, is := out.Tools[tool]; is {
			return own
		}
		return out.Rules
	}
	for tool, n := range b.ToolFailures {
		own := rules(tool)
		own.Failures = n
		out.Tools[tool] = own
	}
	for tool, d := range b.ToolRecovery {
		own := rules(tool)
		own.Recovery = d
		out.Tools[tool] = own
	}
	return out
}

// near is a hint at what was meant, where there is something like it.
func near(got string, known []string) string {
	if meant := strict.Nearest(got, known); meant != "" {
		return "did you mean " + strict.Quote(meant) + "?"
	}
	return ""
}

func knownLayers() []string {
	return append(slices.Clone(sandbox.Layers), wire.RoomLayers...)
}

func knownScanners() []string {
	var names []string
	for _, t := range runners.BuiltIn().Tools() {
		names = append(names, t.Scanner)
	}
	return names
}

// tools is the scanners that there are: those that are built in, and those that are declared without a
// fault.
func (s *settings) tools() runners.Table {
	declared, _, _ := launcher.Declarations(s.RunnersDir) // what is wrong with it is told by declared
	return runners.BuiltIn().With(declared...).Only(s.Tools.Include, s.Tools.Exclude)
}

// program is the path of a scanner's program.
func (s *settings) program(tools runners.Table, scanner string) string {
	return cmp.Or(tools.Program(scanner), s.Scanners[scanner])
}

// toolNames are those that a setting can name: also of a declared tool whose file has a fault, since
// the daemon is to start without it.
func (s *settings) toolNames() []string {
	names := runners.BuiltIn().Names()
	entries, _ := os.ReadDir(s.RunnersDir) // without it nothing is declared
	for _, e := range entries {
		if name, is := strings.CutSuffix(e.Name(), ".yaml"); is && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// declared tells what is wrong with the scanners that are declared.
func (s *settings) declared() error {
	_, faults, err := launcher.Declarations(s.RunnersDir)
	return errors.Join(faults.Err(), err)
}

// logger is the log of a role, at its standard error or in the journal behind that.
func (s *settings) logger(stderr io.Writer) *slog.Logger {
	s.from.level.Set(journal.Level(s.Log.Level))
	return journal.New(stderr, &s.from.level, s.Log.Format)
}

// tellClamped logs what is not as it was said.
func (s *settings) tellClamped(log *slog.Logger) {
	for _, w := range s.from.warnings {
		log.Warn("a setting is not as it was said", journal.Key, journal.ValueClamped, "setting", w.Field, "why", w.String())
	}
}

// tellDeclared logs what is wrong with declared scanners: they are not there, and the others are.
func (s *settings) tellDeclared(log *slog.Logger) {
	if err := s.declared(); err != nil {
		log.Error("declared scanners with faults are not offered", "faults", err)
	}
}

func (s *settings) resolvers() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, text := range s.Resolvers {
		a, err := resolver(text)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func resolver(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a, 53), nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Addr().Zone() != "" || a.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address of a name server", text)
	}
	return a, nil
}

// proofUID is that of doctor's boxes, after those of the scans, of the box that asks for names and of
// the one that asks for versions: what they use up counts for no box that runs. It is the last.
func (s *settings) proofUID() int { return s.Slots.FirstUID + s.Scans.AtOnce + 2 }

// apart says why the front cannot be the user of that number: the walls between front, launcher
// and boxes are made of their users.
func (s *settings) apart(front uint32) error {
	first, last := int64(s.Slots.FirstUID), int64(s.proofUID())
	switch {
	case front == 0:
		return errors.New("root is the launcher: there would be no wall between the rooms")
	case int64(front) >= first && int64(front) <= last:
		return fmt.Errorf("uid %d belongs to a box: slots.first_uid and scans.at_once give boxes the uids %d to %d", front, first, last)
	}
	return nil
}

// checkMachine says what is wrong with well-formed settings on this machine.
func (s *settings) checkMachine(at faultAt) strict.Faults {
	return append(s.checkUser(at), s.checkSegment(at)...)
}

// checkSegment says why slots cannot stand on the segment that is named.
func (s *settings) checkSegment(at faultAt) strict.Faults {
	if s.Slots.Mode != scope.L2 || s.Slots.Interface == "" {
		return nil
	}
	var m *scope.Misfit
	if err := s.segment().Fits(); !errors.As(err, &m) {
		return nil // well, or this machine cannot be asked: doctor says so
	}
	return strict.Faults{at(m.Key, strict.Quote(m.Got), m.Allowed, m.Hint)}
}

// segment is the slots' network as far as its place is concerned.
func (s *settings) segment() scope.Config {
	return scope.Config{Mode: s.Slots.Mode, Interface: s.Slots.Interface, V4: s.Slots.IPv4, V6: s.Slots.IPv6}
}

func (s *settings) checkUser(at faultAt) strict.Faults {
	if _, err := strconv.ParseUint(s.FrontUser, 10, 32); err == nil {
		return nil // a number needs no user, and was checked
	}
	const allowed = "a user of the front's own, by name or number"
	uid, _, err := s.frontIDs()
	if err != nil {
		return strict.Faults{at("front_user", strict.Quote(s.FrontUser), allowed, "there is no such user (`systemd-sysusers` makes the packaged one); a number needs none")}
	}
	if err := s.apart(uid); err != nil {
		return strict.Faults{at("front_user", strict.Quote(s.FrontUser), allowed, err.Error())}
	}
	return nil
}

// frontIDs finds the front's user: a number stands for itself (and for the group of that
// number), so that the daemon runs where no user was created.
func (s *settings) frontIDs() (uid, gid uint32, err error) {
	if n, err := strconv.ParseUint(s.FrontUser, 10, 32); err == nil {
		return uint32(n), uint32(n), nil
	}
	u, err := user.Lookup(s.FrontUser)
	if err != nil {
		return 0, 0, exitError{exitConfig, fmt.Errorf("front_user: %w (the package creates it; a number works without)", err)}
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	group, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil || gerr != nil {
		return 0, 0, exitError{exitConfig, fmt.Errorf("front_user: %q has no numeric id", s.FrontUser)}
	}
	return uint32(id), uint32(group), nil
}

// launcher turns settings into what the launcher is told.
func (s *settings) launcher() (launcher.Config, error) {
	uid, _, err := s.frontIDs()
	if err != nil {
		return launcher.Config{}, err
	}
	if err := s.apart(uid); err != nil {
		return launcher.Config{}, exitError{exitConfig, fmt.Errorf("front_user: %w", err)}
	}
	live, err := s.launcherLive(s.tools())
	if err != nil {
		return launcher.Config{}, err
	}
	return launcher.Config{
		Version: version, FrontSocket: s.FrontSocket, StateDir: s.LauncherStateDir, AuditDir: s.AuditDir, EngagementsDir: s.EngagementsDir,
		FrontUID: uid, Slots: s.Scans.AtOnce, FirstSlotUID: uint32(s.Slots.FirstUID), Mode: s.Slots.Mode, Interface: s.Slots.Interface,
		NoBPF: s.Slots.Filter != bpf, SlotsV4: s.Slots.IPv4, SlotsV6: s.Slots.IPv6, TokenFiles: s.tokenFiles(), Live: live,
		Health: s.Health.forRooms(), Watchdog: watchdog(),
	}, nil
}

// launcherLive is what of it a reload changes: the keys that are tagged so, and no others.
func (s *settings) launcherLive(tools runners.Table) (launcher.Live, error) {
	resolvers, err := s.resolvers()
	if err != nil {
		return launcher.Live{}, err
	}
	l := s.Limits
	return launcher.Live{
		Tools: tools, Queue: s.Scans.Queued, Budget: s.Scans.Packets,
		Resolvers: resolvers, Scanners: s.Scanners, Wordlists: s.Wordlists.Directories, Accept: s.AcceptUnenforced,
		Breakers: s.breakers(), PerTool: s.Scans.PerTool, Assumed: s.assumed(), Approvals: s.Approvals.Within, Grace: s.Shutdown.Grace,
		Together: sandbox.Total{Memory: int64(s.Scans.MemoryMiB) << 20, Pids: s.Scans.Processes, CPUPercent: s.Scans.CPUPercent, IO: int64(s.Scans.IOMiB) << 20},
		Limits: launcher.Limits{Memory: int64(l.MemoryMiB) << 20, Pids: l.Processes, CPUPercent: l.CPUPercent, CPUTime: l.CPUTime, IO: int64(l.IOMiB) << 20,
			Output: int64(l.OutputMiB) << 20, Tmp: int64(l.TmpMiB) << 20, OpenFiles: l.OpenFiles},
	}, nil
}

// assumed are the scanners whose paths are the defaults: nobody said that they are there.
func (s *settings) assumed() (names []string) {
	for name, path := range defaultSettings().Scanners {
		if s.Scanners[name] == path {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// front turns settings into what the front is told.
func (s *settings) front(from *surroundings, listener *net.UnixListener, link *net.UnixConn) front.Config {
	cfg := front.Config{Listener: listener, Link: link, StateDir: s.StateDir, Version: version, Log: s.logger(from.stderr), Notify: notify,
		Grace: 10 * time.Second, Live: s.frontLive(s.tools(), link != nil), Health: s.Health.forRooms(), Watchdog: watchdog(),
		Bell: s.BellSocket, Hosts: s.HTTP.Hosts, Origins: s.HTTP.Origins, IdleExit: s.Front.IdleExit}
	if link != nil {
		cfg.Notify, cfg.Bell = func(string) {}, "" // the bell is the daemon's
		cfg.Health, cfg.Watchdog = health.Settings{}, 0
	}
	return cfg
}

// frontLive is what of it a reload changes. The front of stdio writes no metrics: the file is the daemon's.
func (s *settings) frontLive(tools runners.Table, stdio bool) front.Live {
	live := front.Live{Tools: tools, Metrics: s.Metrics.Textfile, Every: s.Metrics.Every,
		Keep: store.Limits{Jobs: s.Jobs.Keep, Bytes: int64(s.Jobs.KeepMiB) << 20, Age: s.Jobs.KeepFor, Free: int64(s.Jobs.FreeMiB) << 20}}
	if stdio {
		live.Metrics = ""
	}
	return live
}
