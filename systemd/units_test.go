// Package systemd has no code: its tests hold the units to what is said of them.
package systemd

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oldest is the systemd that the units are made for: Ubuntu 22.04's.
const oldest = 249

// since says with which systemd a key came, by its manual (from 254 on) and its news. "0" stands for 240
// and before.
var since = map[string]int{
	// What was said of a unit from the beginning.
	"After": 0, "Also": 0, "Description": 0, "Documentation": 0, "OnFailure": 0, "PartOf": 0, "Requires": 0,
	"StartLimitIntervalSec": 0, "WantedBy": 0, "Wants": 0,
	"DirectoryMode": 0, "FileDescriptorName": 0, "ListenSequentialPacket": 0, "ListenStream": 0, "RemoveOnStop": 0,
	"Service": 0, "SocketGroup": 0, "SocketMode": 0, "SocketUser": 0, "TriggerLimitIntervalSec": 0,
	"OnCalendar": 0, "Persistent": 0, "RandomizedDelaySec": 0,
	"EnvironmentFile": 0, "ExecReload": 0, "ExecStart": 0, "ExecStopPost": 0, "Group": 0, "KillMode": 0, "LimitCORE": 0,
	"Restart": 0, "RestartSec": 0, "Slice": 0, "SyslogLevel": 0, "TimeoutStartSec": 0, "TimeoutStopSec": 0,
	"Type": 0, "UMask": 0, "User": 0, "WatchdogSec": 0,
	"AmbientCapabilities": 0, "BindPaths": 0, "BindReadOnlyPaths": 0, "TemporaryFileSystem": 0, "CapabilityBoundingSet": 0, "InaccessiblePaths": 0, "LockPersonality": 0, "LogsDirectory": 0,
	"LogsDirectoryMode": 0, "MemoryDenyWriteExecute": 0, "NoNewPrivileges": 0, "PrivateDevices": 0, "PrivateMounts": 0,
	"PrivateNetwork": 0, "PrivateTmp": 0, "ProtectControlGroups": 0, "ProtectHome": 0, "ProtectKernelModules": 0,
	"ProtectKernelTunables": 0, "ProtectSystem": 0, "ReadOnlyPaths": 0, "ReadWritePaths": 0, "RemoveIPC": 0, "RestrictAddressFamilies": 0,
	"RestrictNamespaces": 0, "RestrictRealtime": 0, "RuntimeDirectory": 0, "RuntimeDirectoryMode": 0, "RuntimeDirectoryPreserve": 0,
	"StateDirectory": 0, "StateDirectoryMode": 0, "SystemCallArchitectures": 0, "SystemCallErrorNumber": 0, "SystemCallFilter": 0,
	"CPUWeight": 0, "Delegate": 0, "IOWeight": 0, "IPAddressAllow": 0, "IPAddressDeny": 0, "MemoryMax": 0, "TasksMax": 0,

	"ProtectHostname": 242, "RestrictSUIDSGID": 242, "OOMPolicy": 243, "ProtectKernelLogs": 244, "ProtectClock": 245,
	"LoadCredential": 247, "ProcSubset": 247, "ProtectProc": 247, "ExecPaths": 248, "NoExecPaths": 248, "PrivateIPC": 248,
	"DelegateSubgroup": 254,
}

// lost is what is missing where a systemd does not know the key: it logs a line about it and goes on. Nothing of
// it is a protection.
var lost = map[string]string{
	"DelegateSubgroup": "nothing: the launcher makes the same cgroup and moves itself into it",
}

// valuesOf are those that are as old as the key: a key may be older than a value of it.
func valuesOf(key string) []string {
	switch {
	case key == "Type":
		return []string{"notify", "oneshot"}
	case key == "Restart":
		return []string{"always", "on-failure"}
	case strings.HasPrefix(key, "Private"):
		return []string{"yes"}
	case strings.HasPrefix(key, "Protect"):
		return []string{"yes", "strict", "invisible"}
	}
	return nil
}

// groups are those of system calls that the oldest systemd has; one that it does not know it would leave out, and
// with it what was to be allowed.
var groups = []string{"@system-service", "@mount", "@setuid", "@resources", "@privileged", "@keyring"}

type line struct{ section, key, value string }

// units are all lines of all unit files, by file.
func units(t *testing.T) map[string][]line {
	t.Helper()
	all := map[string][]line{}
	for _, dir := range []string{".", "examples"} {
		for _, kind := range []string{"service", "socket", "slice", "timer"} {
			files, err := filepath.Glob(filepath.Join(dir, "*."+kind))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				all[file] = read(t, file)
			}
		}
	}
	if len(all) < 13 {
		t.Fatalf("found only %d units", len(all))
	}
	return all
}

func read(t *testing.T, file string) (lines []line) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var section string
	for l := range strings.Lines(string(text)) {
		l = strings.TrimSpace(l)
		switch {
		case l == "", strings.HasPrefix(l, "#"):
		case strings.HasPrefix(l, "["):
			section = strings.Trim(l, "[]")
		default:
			key, value, is := strings.Cut(l, "=")
			if !is || section == "" {
				t.Fatalf("%s: %q is no line of a unit", file, l)
			}
			lines = append(lines, line{section, key, value})
		}
	}
	return lines
}

// words are those of all lines with the key.
func words(lines []line, key string) (all []string) {
	for _, l := range lines {
		if l.key == key {
			all = append(all, strings.Fields(l.value)...)
		}
	}
	return all
}

func TestOldestSystemdKnowsWhatUnitsSay(t *testing.T) {
	used := map[string]bool{}
	for file, lines := range units(t) {
		for _, l := range lines {
			used[l.key] = true
			v, known := since[l.key]
			_, tolerated := lost[l.key]
			if !known || v > oldest && !tolerated {
				t.Errorf("%s: %s= came with systemd %d (0: look it up), after %d", file, l.key, v, oldest)
			}
			if may := valuesOf(l.key); may != nil && !slices.Contains(may, l.value) {
				t.Errorf("%s: %s=%s: since when is this value known?", file, l.key, l.value)
			}
			if l.key == "SystemCallFilter" {
				for _, w := range strings.Fields(strings.TrimPrefix(l.value, "~")) {
					if strings.HasPrefix(w, "@") && !slices.Contains(groups, w) {
						t.Errorf("%s: since when is the group %s known?", file, w)
					}
				}
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(since)) {
		if !used[key] {
			t.Errorf("no unit says %s= any more", key)
		}
	}
}

// The launcher may write to its own cgroup, which is where its slice is.
func TestLauncherMayWriteToItsCgroup(t *testing.T) {
	lines := read(t, "secmcpd-launcher.service")
	slice := words(lines, "Slice")
	if len(slice) != 1 {
		t.Fatalf("Slice= is %v", slice)
	}
	path, name := "", ""
	for part := range strings.SplitSeq(strings.TrimSuffix(slice[0], ".slice"), "-") {
		name = strings.TrimPrefix(name+"-"+part, "-")
		path += name + ".slice/"
	}
	may := words(lines, "ReadWritePaths")
	for _, mount := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/unified/"} {
		if want := "-" + mount + path + "secmcpd-launcher.service"; !slices.Contains(may, want) {
			t.Errorf("ReadWritePaths= has no %s: %v", want, may)
		}
	}
}

func TestOneSocketIsTheSwitchOfAll(t *testing.T) {
	var others []string
	for file, lines := range units(t) {
		if filepath.Ext(file) != ".socket" || file == "secmcpd.socket" {
			continue
		}
		if part := words(lines, "PartOf"); !slices.Equal(part, []string{"secmcpd.socket"}) {
			t.Errorf("%s is part of %v", file, part)
		}
		if file != "secmcpd-http.socket" {
			others = append(others, file)
		}
	}
	slices.Sort(others)
	lines := read(t, "secmcpd.socket")
	for _, key := range []string{"Wants", "Also"} {
		if said := slices.Sorted(slices.Values(words(lines, key))); !slices.Equal(said, others) {
			t.Errorf("secmcpd.socket: %s= is %v, want %v", key, said, others)
		}
	}
	preset, err := os.ReadFile("secmcpd.preset")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(preset)) {
		verb, unit, _ := strings.Cut(strings.TrimSpace(l), " ")
		switch {
		case verb == "#":
		case verb == "disable" && unit == "secmcpd-http.socket", verb == "enable" && unit == "secmcpd.socket":
		case verb == "enable" && slices.Contains(others, unit):
			others = slices.DeleteFunc(others, func(s string) bool { return s == unit })
		default:
			t.Errorf("the preset says %q", l)
		}
	}
	if len(others) > 0 {
		t.Errorf("the preset does not enable %v", others)
	}
}

func TestPackagesHaveEveryUnit(t *testing.T) {
	recipe, err := os.ReadFile("../nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for file := range units(t) {
		if !strings.Contains(string(recipe), "{src: systemd/"+file+",") && !strings.Contains(string(recipe), "{src: systemd/"+filepath.Dir(file)+"/*,") {
			t.Errorf("nfpm.yaml has no %s", file)
		}
	}
}
