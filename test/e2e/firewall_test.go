package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/test/lab"
)

// Another firewall drops what is forwarded: a scan through it ends well and has seen nobody. Its
// answer names doctor, doctor names the chain, and with the line that it gives the next scan sees.
func TestAnotherFirewallIsFoundAndLetsScansThrough(t *testing.T) {
	h := newHouse(t, lab.Options{})
	scan := func() object {
		return h.call("nmap_scan", object{"targets": []string{lab.SSH}, "ports": []int{22}, "skip_discovery": true, "wait_s": 45})
	}
	nft(t, "table inet other { chain forward { type filter hook forward priority 0; policy drop; ct state established accept; }; }")
	defer nft(t, "delete table inet other")
	answer := scan()
	if next, _ := answer["next"].(string); at(answer, "coverage", "silent") != 1.0 || !strings.Contains(next, "secmcpd doctor") {
		t.Fatalf("through a firewall that drops: %s", show(answer))
	}
	said, _ := exec.Command(binary, "doctor").CombinedOutput() // it finds faults here, of what is not installed
	line := regexp.MustCompile(`the chain inet other forward drops.*\n.*\n +mend: nft '([^']+)'`).FindSubmatch(said)
	if line == nil {
		t.Fatalf("doctor does not say how to mend it:\n%s", said)
	}
	nft(t, string(line[1]))
	if answer := scan(); at(answer, "summary", "open_ports") != 1.0 {
		t.Errorf("with the line that doctor gave: %s", show(answer))
	}
}

func nft(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}
