package e2e

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/test/lab"
)

// onlySSH allows one port of the lab's hosts, and DNS of its name server.
const onlySSH = `name: ssh
callers: {users: [0]}
targets:
  - {network: 10.77.0.8/29, ports: [22]}
  - {network: 10.77.0.53, ports: [udp/53]}
  - {network: 10.77.0.20/31, icmp: true, ports: [80, udp/161]}
  - {name: .lab.internal, within: [10.77.0.8/29], ports: [22]}
  - {network: "fd77::10", ports: [22]}
  - {network: "fd77::53", ports: [udp/53]}
exclude:
  - {network: 10.77.0.20, ports: [udp/161]}
tools: {nmap_scan: {profiles: ["*"]}}
`

func doors(t *testing.T) *lab.Observer {
	t.Helper()
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4, lab.SlotsV6), Targets: lab.Prefixes("10.77.0.8/29", lab.DNS, lab.DNS6, lab.IPv6Host),
		Ports: map[byte][]uint16{unix.IPPROTO_TCP: {22, 53}, unix.IPPROTO_UDP: {53}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// Under a rule for ports a scan finds what it may look at, and sends nothing that the kernel has
// to drop: not to look for hosts, not to tell a closed port.
func TestPortsOfAnEngagement(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"ssh": onlySSH}})
	o := doors(t)
	for _, c := range []struct {
		says      string
		arguments object
		want      string // of ports
	}{
		{"a connect scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}}, "10.77.0.10/22/open/ssh"},
		{"a SYN scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "scan_type": "syn"}, "10.77.0.10/22/open/ssh"},
		{"of a network, of which it finds the hosts by that port", object{"targets": []string{"10.77.0.8/29"}, "ports": []any{22}, "scan_type": "syn"}, "10.77.0.10/22/open/ssh 10.77.0.11/22/closed/ssh 10.77.0.12/22/open/ssh"},
		{"without raw sockets", object{"targets": []string{"10.77.0.12/30"}, "ports": []any{22}}, "10.77.0.12/22/open/ssh"},
		{"services", object{"targets": []string{lab.SSH}, "ports": []any{22}, "profile": "version"}, "10.77.0.12/22/open/ssh"},
		{"scripts that stay", object{"targets": []string{lab.SSH}, "ports": []any{22}, "scripts": []string{"banner", "ssh2-enum-algos"}}, "10.77.0.12/22/open/ssh"},
		{"hosts alone", object{"targets": []string{"10.77.0.8/29"}, "profile": "discovery"}, ""},
		{"by name", object{"targets": []string{"ssh.lab.internal"}, "ports": []any{22}}, "10.77.0.10/22/open/ssh"},
		{"IPv6", object{"targets": []string{lab.IPv6Host}, "ports": []any{22}, "scan_type": "syn", "skip_discovery": false}, "fd77::10/22/open/ssh"},
		{"UDP", object{"targets": []string{lab.DNS}, "ports": []any{53}, "scan_type": "udp", "skip_discovery": false}, "10.77.0.53/53/open/domain"},
		{"UDP of IPv6", object{"targets": []string{lab.DNS6}, "ports": []any{53}, "scan_type": "udp"}, "fd77::53/53/open/domain"},
	} {
		answer := h.call("nmap_scan", c.arguments)
		if answer["status"] != "completed" || ports(answer) != c.want || at(answer, "coverage", "complete") != true {
			t.Errorf("%s: %s, %s", c.says, ports(answer), show(answer))
		}
		if dropped := at(answer, "coverage", "dropped_packets"); dropped != 0.0 {
			t.Errorf("%s: %v were dropped: %s", c.says, dropped, show(at(answer, "coverage")))
		}
		o.Check(t, c.says)
	}
	for _, c := range []struct {
		says               string
		arguments          object
		code, field, rules string
	}{
		{"another port", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}}, "port_not_allowed", "ports", "ssh: targets[0] 10.77.0.8/29 ports 22"},
		{"top ports", object{"targets": []string{lab.SSHAndWeb}, "top_ports": 10}, "port_not_allowed", "top_ports", "ssh: targets[0] 10.77.0.8/29 ports 22"},
		{"another port of a name", object{"targets": []string{"web.lab.internal"}, "ports": []any{80}}, "port_not_allowed", "ports", "ssh: targets[3] .lab.internal ports 22"},
		{"the operating system", object{"targets": []string{lab.SSH}, "ports": []any{22}, "os_detection": true}, "port_not_allowed", "os_detection", "ssh: ports"},
		{"scripts that roam", object{"targets": []string{lab.SSH}, "ports": []any{22}, "scripts": []string{"nbstat"}}, "port_not_allowed", "scripts", "ssh: ports"},
		{"a port that is excluded", object{"targets": []string{lab.Sites}, "ports": []any{161}, "scan_type": "udp"}, "port_excluded", "ports", "ssh: exclude[0] 10.77.0.20 ports udp/161"},
	} {
		answer := h.call("nmap_scan", c.arguments)
		if at(answer, "error", "code") != c.code || at(answer, "error", "field") != c.field || at(answer, "error", "rule") != c.rules || at(answer, "error", "hint") == nil {
			t.Errorf("%s: %s", c.says, show(answer))
		}
	}
	o.Check(t, "what was refused")
	answer := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": object{"targets": []string{"10.77.0.20/31"}, "ports": []any{161}, "scan_type": "udp"}})
	if show(at(answer, "verdict", "addresses")) != `["10.77.0.21/32"]` || show(at(answer, "verdict", "ports")) != `["80","udp/161","icmp"]` ||
		at(answer, "verdict", "excluded", 0, "rule") != "exclude[0] 10.77.0.20 ports udp/161" || !strings.Contains(show(answer["argv"]), `"-PE","-PP","-PS80"`) {
		t.Errorf("%s", show(answer))
	}
	if !strings.Contains(h.auditLog(), `"ports":["22"]`) {
		t.Errorf("the audit log does not say which ports")
	}
}

// intruder is a scanner that sends to another port than it was started for, in nmap's place.
const intruder = `#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static void try(int type, int protocol, const char *to, int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	char packet[8] = {8, 0, 0xf7, 0xff};
	int s = socket(AF_INET, type, protocol);
	inet_pton(AF_INET, to, &a.sin_addr);
	if (!protocol && type != SOCK_DGRAM)
		connect(s, (struct sockaddr *)&a, sizeof a);
	else
		sendto(s, packet, sizeof packet, 0, (struct sockaddr *)&a, sizeof a);
}
int main(int argc, char **argv) {
	const char *to = argv[argc - 1];
	if (argc == 2 && !strcmp(argv[1], "--version"))
		return puts("Nmap version 7.93 ( https://nmap.org )") < 0;
	for (int i = 0; i < 3; i++) {
		try(SOCK_STREAM | SOCK_NONBLOCK, 0, to, 80);
		try(SOCK_DGRAM, 0, to, 22);
		try(SOCK_RAW, IPPROTO_ICMP, to, 0);
	}
	sleep(1);
	return 0;
}
`

// A scanner that is an attacker's gets no packet to another port of an address that it may scan: the
// kernel drops it, and it is counted, named and recorded.
func TestAHostileScannerIsHeldToItsPorts(t *testing.T) {
	scan := object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "scan_type": "syn"}
	settings := "scanners: {nmap: " + compiled(t, intruder) + "}\n"
	t.Run("one port", func(t *testing.T) {
		h := newHouse(t, lab.Options{Settings: settings, Engagements: map[string]string{"ssh": onlySSH}})
		o := doors(t)
		answer := h.call("nmap_scan", scan)
		c, _ := at(answer, "coverage").(object)
		if sent, _ := at(answer, "usage", "sent_packets").(float64); sent != 0 {
			t.Errorf("%v packets were sent: %s", sent, show(answer))
		}
		for _, want := range []string{`"port":80,"protocol":6,"to":"10.77.0.10"`, `"port":22,"protocol":17,"to":"10.77.0.10"`} {
			if !strings.Contains(show(c["off_scope"]), want) {
				t.Errorf("%s is not named: %s", want, show(answer))
			}
		}
		if log := h.auditLog(); !strings.Contains(log, `"event":"scope_violation"`) || !strings.Contains(log, `"port":80`) {
			t.Errorf("the audit log has no violation:\n%s", log)
		}
		o.Check(t, "the intruder")
	})
	t.Run("all ports", func(t *testing.T) { // so that the intruder is one
		h := newHouse(t, lab.Options{Settings: settings})
		o := doors(t)
		h.call("nmap_scan", scan)
		frames, err := o.Forbidden()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"protocol 6, port 80", "protocol 17, port 22", "ICMP, type 8"} {
			if !strings.Contains(show(frames), want) {
				t.Errorf("no %s in %s", want, show(frames))
			}
		}
	})
}
