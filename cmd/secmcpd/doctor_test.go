package main

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// Every limit of a box that a cgroup enforces is looked for, by its controller.
func TestEveryControllerOfABoxIsLookedFor(t *testing.T) {
	all := []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}
	if f := lookControllers("/sys/fs/cgroup", all); f.Status != statusOK {
		t.Errorf("with all of them: %+v", f)
	}
	looked := lookControllers("/sys/fs/cgroup", nil).layers
	for _, layer := range sandbox.Layers {
		controller, is := strings.CutPrefix(layer, sandbox.Cgroup+"-")
		if !is {
			continue
		}
		if !slices.Contains(looked, layer) {
			t.Errorf("%s is not looked at", layer)
		}
		others := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == controller })
		if f := lookControllers("/sys/fs/cgroup", others); f.Status != statusFault || !slices.Equal(f.layers, []string{layer}) {
			t.Errorf("without the controller %s: %+v", controller, f)
		}
	}
}

func TestWhatIsAcceptedIsNoFault(t *testing.T) {
	lacks := fault("no controller cpu", "scans are refused", "").missing(sandbox.CgroupCPU, sandbox.CgroupPids)
	for _, row := range []struct {
		why    string
		found  finding
		accept []string
		status string
		exit   int
	}{
		{"nothing is accepted", lacks, nil, statusFault, exitFailed},
		{"one of two layers is accepted", lacks, []string{sandbox.CgroupCPU}, statusFault, exitFailed},
		{"both layers are accepted", lacks, []string{sandbox.CgroupPids, sandbox.CgroupCPU}, statusAccepted, exitOK},
		{"a fault that is no layer's", fault("no scanner", "", ""), sandbox.Layers, statusFault, exitFailed},
		{"a warning", warning("no group", "", ""), sandbox.Layers, statusWarning, exitWarned},
		{"all is well", ok("nf_tables"), sandbox.Layers, statusOK, exitOK},
	} {
		got := row.found.accepted(row.accept)
		var exit exitError
		errors.As(worst([]finding{got}), &exit)
		if got.Status != row.status || exit.code != row.exit {
			t.Errorf("%s: %s, exit status %d, want %s, %d", row.why, got.Status, exit.code, row.status, row.exit)
		}
	}
}

// A machine whose only name server is on loopback has a fault, and the key that mends it.
func TestANameServerOnLoopbackIsAFault(t *testing.T) {
	if f := resolversFinding(nil, launcher.ErrLoopback); f.Status != statusFault || !strings.Contains(f.Found, "loopback") || !strings.Contains(f.Mend, "set resolvers in secmcpd.yaml") {
		t.Errorf("%+v", f)
	}
	if f := resolversFinding(nil, errors.New("none")); f.Status != statusWarning || !strings.Contains(f.Mend, "resolvers") {
		t.Errorf("without any: %+v", f)
	}
	if f := resolversFinding([]netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:53")}, nil); f.Status != statusOK || !strings.Contains(f.Found, "10.0.0.53:53") {
		t.Errorf("with one: %+v", f)
	}
}

func TestDoctorNamesTheModeOfTheNetwork(t *testing.T) {
	for _, mode := range scope.Modes() {
		s := defaultSettings()
		s.Slots.Mode = mode
		f := lookNetwork(s)
		if mode == scope.L2 { // it has nowhere to stand
			if f.Status != statusFault || !strings.Contains(f.Found, "slots.interface") || !slices.Equal(f.layers, []string{sandbox.Scope}) {
				t.Errorf("%s without an interface: %+v", mode, f)
			}
			continue
		}
		if !strings.HasPrefix(f.Found, string(mode)) || f.Status == statusFault || f.Status == statusOK && f.Follows == "" {
			t.Errorf("%s: %+v", mode, f)
		}
	}
}

// Parts of a layer that this machine has not are faults until they are accepted.
func TestPartsOfLayers(t *testing.T) {
	for _, row := range []struct {
		says   string
		got    finding
		status string
		layers []string
	}{
		{"BPF at the door of cgroups", lookRings(sandbox.Features{}), statusOK, nil},
		{"no BPF at the door of cgroups", lookRings(sandbox.Features{NoRings: "no BPF"}), statusFault, []string{sandbox.CgroupMemory}},
		{"no root to ask", lookRings(sandbox.Features{UID: 1000, NoRings: "no BPF"}), statusWarning, nil},
		{"cores to a file", lookCores(sandbox.Features{}), statusOK, nil},
		{"cores to a socket", lookCores(sandbox.Features{CoreSocket: true}), statusFault, []string{sandbox.Rlimits}},
	} {
		if row.got.Status != row.status || !slices.Equal(row.got.layers, row.layers) {
			t.Errorf("%s: %+v", row.says, row.got)
		}
	}
}

// What slots.filter says is what the launcher is told, and what doctor says.
func TestTheFilterIsWhatTheSettingsSay(t *testing.T) {
	for _, filter := range filters {
		s := defaultSettings()
		s.FrontUser, s.Resolvers = "nobody", []string{"192.0.2.53"}
		s.Slots.Filter = filter
		c, err := s.launcher()
		if err != nil {
			t.Fatal(err)
		}
		if c.NoBPF != (filter == "nftables") {
			t.Errorf("%s: NoBPF is %v", filter, c.NoBPF)
		}
		if f := lookScope(s); strings.Contains(f.Found, "as slots.filter says") != (filter == "nftables") {
			t.Errorf("%s: %+v", filter, f)
		}
	}
}
