package sandbox

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// Rings of a packet socket are memory that no cgroup is charged for: a box has a few at once, however
// it keeps them, and one after the other for ever.
func TestRings(t *testing.T) {
	for _, row := range []struct {
		says        string
		box, how    string
		memory      int64
		least, most int
	}{
		{"kept by their mappings", "nmap-raw", "kept", 512 << 20, ringsMost, ringsMost},
		{"kept by one with threads", "masscan", "kept", 512 << 20, ringsMost, ringsMost},
		{"kept where there is little memory", "nmap-raw", "kept", 2 * ringMost, 2, 2},
		{"kept where there is hardly any", "nmap-raw", "kept", ringMost, 1, 1},
		{"one after the other", "nmap-raw", "in-turn", 512 << 20, 2 * ringsMost, 1000},
	} {
		spec := wish(t, row.box, probe, "probe", "rings", row.how)
		spec.Limits.Memory = row.memory
		n, err := strconv.Atoi(strings.TrimSpace(succeed(t, box, spec)))
		if err != nil || n < row.least || n > row.most {
			t.Errorf("%s: %d rings, want %d to %d (%v)", row.says, n, row.least, row.most, err)
		}
	}
	for name, m := range map[string]*ebpf.Map{"made": box.rings.made, "allowed": box.rings.allowed} {
		var id uint64
		if err := m.NextKey(nil, &id); !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Errorf("a box that ended is among those %s: %d, %v", name, id, err)
		}
	}
}

// The buffers of a raw box's sockets are not charged either: they become no larger than they are
// unasked, whatever the machine allows.
func TestBuffersOfSockets(t *testing.T) {
	got := strings.Fields(succeed(t, box, wish(t, "nmap-raw", probe, "probe", "buffers")))
	most := strconv.Itoa(2 * bufferMost)
	if want := []string{"131072", most, most, "131072", most, most}; !slices.Equal(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A part that is missing of a layer is a gap, and the rest of the layer stays: the bound of rings where
// a program cannot be put to the door of a cgroup, the one of cores where they go to a socket.
func TestPartsOfALayer(t *testing.T) {
	f := Features{Kernel: [2]int{6, 1}, CloneInto: true, Cgroup: "/c", Controllers: []string{"cpu", "io", "memory", "pids"}, LandlockABI: 3, Seccomp: true, NoRings: "no BPF"}
	for _, row := range []struct {
		box  string
		gaps int
	}{{"nmap-raw", 1}, {"masscan", 1}, {"nmap-connect", 0}, {"resolver", 0}} {
		spec, gaps := Fit(Spec{Box: row.box, Raw: profiles[row.box].raw}, f)
		if len(gaps) != row.gaps || !spec.Has(CgroupMemory) {
			t.Errorf("%s: gaps %v, without %v", row.box, gaps, spec.Without)
		}
		if row.gaps > 0 && (gaps[0].Layer != CgroupMemory || gaps[0].Why != "no BPF") {
			t.Errorf("%s: %v", row.box, gaps)
		}
	}
	f.CoreSocket = true
	if spec, gaps := Fit(Spec{Box: "nmap-connect"}, f); !spec.Has(Rlimits) || len(gaps) != 1 || gaps[0].Layer != Rlimits {
		t.Errorf("with cores that go to a socket: gaps %v, without %v", gaps, spec.Without)
	}
	f.CoreSocket = false
	f.Controllers = []string{"pids"}
	if spec, gaps := Fit(Spec{Box: "nmap-raw", Raw: true}, f); spec.Has(CgroupMemory) || len(gaps) != 3 {
		t.Errorf("without a controller: gaps %v, without %v", gaps, spec.Without)
	}
}

// Should a core be written, no memory of the scanner is in it.
func TestNoMemoryInCores(t *testing.T) {
	got := strings.TrimSpace(succeed(t, box, wish(t, "nmap-connect", probe, "probe", "show", "/proc/self/coredump_filter")))
	if got != "/proc/self/coredump_filter: 00000000" {
		t.Error(got)
	}
}
