package scope

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A hundred slots at once, made and given up side by side again and again, by a launcher that is
// killed meanwhile: two seconds later there is nothing of them.
func TestNothingIsLeftOfAHundredSlotsWhoseOwnerIsKilled(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		must(t, Reclaim())
		before := ""
		for now := machine(t); now != before; now = machine(t) { // the kernel gives the uplink an address when it pleases
			before = now
			time.Sleep(200 * time.Millisecond)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "SCOPE_TEST=many", fmt.Sprint("SCOPE_NO_BPF=", config.NoBPF), "SCOPE_MODE="+string(config.Mode))
		out, err := cmd.StdoutPipe()
		must(t, err)
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		said := bufio.NewScanner(out)
		if !said.Scan() {
			t.Fatal("the owner has no slots")
		}
		t.Log(said.Text())
		time.Sleep(200 * time.Millisecond) // it goes on
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		killed := time.Now()
		if found := len(connected(t)) > 0; found != (config.Mode == Translated) {
			t.Errorf("connections of slots are tracked: %v", found)
		}
		must(t, Reclaim(config.V4, config.V6))
		after := machine(t)
		for after != before && time.Since(killed) < 10*time.Second {
			time.Sleep(20 * time.Millisecond)
			after = machine(t)
		}
		took := time.Since(killed)
		t.Logf("gone after %v", took)
		if after != before || took > 2*time.Second {
			t.Errorf("%v after its owner's death, before:\n%s\nafter:\n%s", took, before, after)
		}
	})
}

// manySlots is the owner: it says when it has a hundred, and never ends.
func manySlots() {
	config.NoBPF = os.Getenv("SCOPE_NO_BPF") == "true"
	setMode(Mode(os.Getenv("SCOPE_MODE")))
	config.Ready = 8
	n, err := Open(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	began := time.Now()
	for round := 0; ; round++ {
		var all sync.WaitGroup
		slots := make([]*Slot, 100)
		for i := range slots {
			all.Go(func() {
				s, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 1000)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				slots[i] = s
			})
		}
		all.Wait()
		for _, s := range slots[:10] {
			if err := reaches(s.NetNS(), allowed); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		if round == 0 {
			fmt.Println("a hundred slots after", time.Since(began))
		}
		for _, s := range slots {
			all.Go(func() { _ = s.Close() }) // what it says is not of interest here
		}
		all.Wait()
	}
}

// connected are the connections of slots that the kernel tracks.
func connected(t *testing.T) (found []string) {
	t.Helper()
	for _, family := range families() {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family))
		must(t, err)
		for _, f := range flows {
			if (connections{config.V4, config.V6}).MatchConntrackFlow(f) {
				found = append(found, f.String())
			}
		}
	}
	return found
}

// machine is all that slots change of it.
func machine(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	links, err := consistent(netlink.LinkList)
	must(t, err)
	for _, l := range links {
		fmt.Fprintln(&b, l.Attrs().Name, get("ipv4", l.Attrs().Name, "forwarding"), get("ipv6", l.Attrs().Name, "force_forwarding"))
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		must(t, err)
		fmt.Fprintln(&b, addresses)
	}
	fmt.Fprintln(&b, "connections of slots:", connected(t))
	for _, command := range []string{"ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft list tables", "tc filter show dev uplink ingress", "tc qdisc show dev uplink"} {
		words := strings.Fields(command)
		text, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, text)
		}
		fmt.Fprintf(&b, "%s:\n%s", command, text)
	}
	return b.String()
}
