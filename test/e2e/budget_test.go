package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// flood is a scanner that sends as fast as it can for three seconds, in nmap's place.
const flood = `#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
int main(int argc, char **argv) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	time_t end = time(NULL) + 3;
	if (argc == 2 && !strcmp(argv[1], "--version"))
		return puts("Nmap version 7.93 ( https://nmap.org )") < 0;
	inet_pton(AF_INET, argv[argc - 1], &a.sin_addr);
	while (time(NULL) < end)
		sendto(s, "", 1, 0, (struct sockaddr *)&a, sizeof a);
	return 0;
}
`

const shared = `name: shared
callers: {users: [0]}
targets: [10.77.0.53]
tools: {nmap_scan: {profiles: ["*"]}}
limits: {packets_per_second: 150, total_packets_per_second: 200}
`

// Two scans of one engagement together send no more than its budget, as the far side sees it; the
// third one waits; nothing is lost on the way.
func TestTwoScansOfAnEngagementShareItsBudget(t *testing.T) {
	for _, filter := range []string{"bpf", "nftables"} {
		t.Run(filter, func(t *testing.T) {
			h := newHouse(t, lab.Options{Engagements: map[string]string{"shared": shared},
				Settings: "scanners: {nmap: " + compiled(t, flood) + "}\n", Table: filter == "nftables"})
			if got := at(h.call("capabilities", object{}), "network", "filter"); got != filter {
				t.Errorf("the filter is said to be %v", got)
			}
			o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4), Targets: lab.Prefixes(lab.DNS)})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			before := o.Permitted()
			scan := func(rate int) object {
				return object{"targets": []string{lab.DNS}, "ports": []any{53}, "scan_type": "udp", "rate": rate, "wait_s": 30}
			}
			if p := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": scan(150)}); at(p, "network", "slowed") != nil || at(p, "verdict", "rate") != 150.0 {
				t.Errorf("previewed: %s", show(p))
			}
			var answers [3]object
			var errs [3]error
			var all sync.WaitGroup
			began := time.Now()
			for i := range answers {
				s := h.connect(0)
				defer s.Close()
				all.Go(func() { answers[i], errs[i] = call(s, "nmap_scan", scan(100)) })
			}
			all.Wait()
			took := time.Since(began)
			if took < 5*time.Second {
				t.Errorf("three of them took %v: the third one did not wait", took)
			}
			sent := 0.0
			for i, a := range answers {
				if errs[i] != nil {
					t.Fatal(errs[i])
				}
				n, _ := at(a, "usage", "sent_packets").(float64)
				if n < 200 || at(a, "coverage", "over_rate_packets") != nil {
					t.Errorf("scan %d: %s", i, show(a))
				}
				sent += n
			}
			// The observer permits some talk of kernels.
			seen := o.Permitted() - before
			if most := int(200*took.Seconds()*1.02 + 60); seen > most || seen < int(sent) {
				t.Errorf("the lab saw %d frames of %v packets in %v; at most %d would do", seen, sent, took, most)
			}
			t.Logf("%v: %v packets were sent, %d frames seen in %v", filter, sent, seen, took)
			if log := h.auditLog(); !strings.Contains(log, `"filter":"`+filter+`"`) {
				t.Error("the audit log does not say which filter")
			}
			o.Check(t, "three scans")
		})
	}
}
