package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/test/lab"
)

// asker is a scanner that asks for a name by itself, with what its box tells it of name servers and
// with what it knows, in nmap's place.
const asker = `#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
	static const char query[] = "\0\1\1\0\0\1\0\0\0\0\0\0\6asking\6rebind\3lab\10internal\0\0\1\0\1";
	char line[256];
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
	if (argc == 2 && !strcmp(argv[1], "--version"))
		return puts("Nmap version 7.93 ( https://nmap.org )") < 0;
	for (int i = 0; i < 2; i++) {
		FILE *f = fopen(i ? "/etc/hosts" : "/etc/resolv.conf", "r");
		while (f && fgets(line, sizeof line, f))
			printf("%s", line);
	}
	inet_pton(AF_INET, "` + lab.DNS + `", &a.sin_addr);
	for (int i = 0; i < 3; i++)
		sendto(socket(AF_INET, SOCK_DGRAM, 0), query, sizeof query - 1, 0, (struct sockaddr *)&a, sizeof a);
	sleep(1);
	return 0;
}
`

// compiled is a program in nmap's place.
func compiled(t *testing.T, source string) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "nmap")
	if err := os.WriteFile(path+".c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", path, path+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// A name that is in scope when it is asked for, and off scope ever after: it is asked for once, by
// the resolver's box, and the scan stays on the first answer.
func TestANameThatIsRebound(t *testing.T) {
	h := newHouse(t, lab.Options{})
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4, lab.SlotsV6), Targets: lab.Prefixes(lab.Web, lab.IPv6Host, lab.DNS)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, c := range []struct {
		name      string
		arguments object
		want      string // of ports
	}{
		{"connect.rebind.lab.internal", object{"ports": []any{80}}, lab.Web + "/80/open/http"},
		{"syn.rebind.lab.internal", object{"ports": []any{80}, "scan_type": "syn"}, lab.Web + "/80/open/http"},
		{"web.rebind.lab.internal", object{"ports": []any{80}, "profile": "version", "scripts": []string{"http-title", "http-methods", "http-robots.txt"}}, lab.Web + "/80/open/http"},
		{"hosts.rebind.lab.internal", object{"profile": "discovery"}, ""},
		{"six.rebind.lab.internal", object{"ports": []any{80}, "ip_version": 6}, lab.IPv6Host + "/80/open/http"},
	} {
		c.arguments["targets"] = []string{c.name}
		answer := h.call("nmap_scan", c.arguments)
		if answer["status"] != "completed" || ports(answer) != c.want || at(answer, "coverage", "dropped_packets") != 0.0 {
			t.Errorf("%s: %s, %s", c.name, ports(answer), show(answer))
		}
		if asked := network.Queries(c.name); asked != 1 {
			t.Errorf("%s was asked for %d times", c.name, asked)
		}
		o.Check(t, c.name)
		again := h.call("nmap_scan", c.arguments)
		if at(again, "error", "code") != "name_outside_scope" {
			t.Errorf("%s, off scope: %s", c.name, show(again))
		}
		if asked := network.Queries(c.name); asked != 2 {
			t.Errorf("%s, off scope, was asked for %d times", c.name, asked)
		}
		o.Check(t, c.name+", off scope")
	}
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

// The resolver's box sends to one port of one address, and nothing else of the name server is asked.
func TestNamesAreAskedForAtOnePort(t *testing.T) {
	h := newHouse(t, lab.Options{})
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4), Targets: lab.Prefixes(lab.Web, lab.DNS),
		Ports: map[byte][]uint16{unix.IPPROTO_TCP: {53, 80}, unix.IPPROTO_UDP: {53}}})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	answer := h.call("nmap_scan", object{"targets": []string{"web.lab.internal"}, "ports": []any{80}})
	if answer["status"] != "completed" {
		t.Errorf("%s", show(answer))
	}
	if refused := h.call("nmap_scan", object{"targets": []string{"many.lab.internal"}, "ports": []any{80}}); at(refused, "error", "code") == nil { // by TCP: it is too long
		t.Errorf("%s", show(refused))
	}
	o.Check(t, "names")
}

// A scanner that asks for names by itself is told of no server, and reaches none.
func TestNoNameIsAskedForFromAScannersBox(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "scanners: {nmap: " + compiled(t, asker) + "}\n"})
	answer := h.call("nmap_scan", object{"targets": []string{"asking.rebind.lab.internal"}, "ports": []any{80}})
	if !strings.Contains(show(at(answer, "coverage", "off_scope")), `{"packets":3,"port":53,"protocol":17,"to":"`+lab.DNS+`"}`) {
		t.Errorf("what it sent is not named: %s", show(answer))
	}
	if asked := network.Queries("asking.rebind.lab.internal"); asked != 1 {
		t.Errorf("the name was asked for %d times", asked)
	}
	told, err := os.ReadFile(filepath.Join(h.daemon.Dir, "state", "jobs", answer["job_id"].(string), "nmap.xml"))
	if err != nil || string(told) != "127.0.0.1 localhost\n::1 localhost\n" {
		t.Errorf("its box tells it %q, %v", told, err)
	}
}

// withHosts is the program with another hosts file for its launcher.
func withHosts(t *testing.T, hosts string) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hosts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	const script = `#!/bin/sh
case $1 in
launcher) exec unshare -m sh -c 'mount --bind "$0/hosts" /etc/hosts && exec "$0/secmcpd" "$@"' "DIR" "$@" ;;
esac
exec "DIR/secmcpd" "$@"
`
	path = filepath.Join(dir, "script")
	for name, text := range map[string]string{"hosts": hosts, "secmcpd": string(program), "script": strings.ReplaceAll(script, "DIR", dir)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// What the machine's hosts file says of a name counts before DNS, and is judged as DNS is.
func TestTheHostsFileCountsBeforeDNS(t *testing.T) {
	hosts := withHosts(t, "127.0.0.1 localhost\n"+lab.Web+" first evil.lab.internal\n"+lab.Outside+" web.lab.internal\n")
	program := binary
	binary = hosts
	h := newHouse(t, lab.Options{})
	binary = program
	evil, web := network.Queries("evil.lab.internal"), network.Queries("web.lab.internal")
	answer := h.call("nmap_scan", object{"targets": []string{"evil.lab.internal"}, "ports": []any{80}})
	if answer["status"] != "completed" || ports(answer) != lab.Web+"/80/open/http" {
		t.Errorf("%s", show(answer))
	}
	if refused := h.call("nmap_scan", object{"targets": []string{"web.lab.internal"}, "ports": []any{80}}); at(refused, "error", "code") != "name_outside_scope" || at(refused, "error", "got") != lab.Outside {
		t.Errorf("%s", show(refused))
	}
	if network.Queries("evil.lab.internal") != evil || network.Queries("web.lab.internal") != web {
		t.Error("the name server was asked")
	}
}
