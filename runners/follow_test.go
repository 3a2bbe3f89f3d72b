package runners

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func found(texts ...string) (open []Open) {
	for _, text := range texts {
		addr, rest, _ := strings.Cut(text, " ")
		var port uint16
		udp := strings.HasPrefix(rest, "udp/")
		fmt.Sscan(strings.TrimPrefix(rest, "udp/"), &port)
		open = append(open, Open{netip.MustParseAddr(addr), udp, port})
	}
	return open
}

func TestWhatFollowsAScan(t *testing.T) {
	plain := masscanCall(t, `{"targets":["10.0.0.0/24"],"ports":[80]}`)
	if _, is := plain.SecondPass(); is || len(plain.Then()) > 0 {
		t.Error("something follows a scan that did not ask for it")
	}
	if all, left, err := plain.Verifications("lab", found("10.0.0.5 80")); len(all)+len(left) > 0 || err != nil {
		t.Errorf("%v, %v, %v", all, left, err)
	}
	call := masscanCall(t, `{"targets":["10.0.0.0/24"],"exclude":["10.0.0.9"],"ports":[80],"rate":200,"limit":600,"second_pass":true,"verify":"services"}`)
	second, is := call.SecondPass()
	if got, _ := second.Under("lab").Arguments(); !is || len(Validate(second)) > 0 || string(got) != `{"targets":["10.0.0.0/24"],"exclude":["10.0.0.9"],"profile":"quick","ports":["80"],"rate":200,"retries":1,"wait":3,"limit":600,"engagement":"lab"}` {
		t.Errorf("%v %s", is, got)
	}
	if _, more := second.SecondPass(); more || !call.Masscan.SecondPass {
		t.Error("the second pass has another one, or the first has none any more")
	}
	if got := fmt.Sprint(call.Then()); got != "[the same a second time nmap_scan of the services that are found]" {
		t.Error(got)
	}
}

func TestVerifications(t *testing.T) {
	call := masscanCall(t, `{"targets":["10.0.0.0/24"],"ports":[80,"udp/53"],"rate":200,"limit":600,"verify":"services"}`)
	all, left, err := call.Verifications("lab", found("10.0.0.7 443", "10.0.0.5 80", "10.0.0.5 81", "10.0.0.5 udp/53", "10.0.0.7 80"))
	if err != nil || len(left) > 0 || len(all) != 2 {
		t.Fatalf("%v, %v, %v", all, left, err)
	}
	for i, want := range []string{
		`{"targets":["10.0.0.5","10.0.0.7"],"profile":"version","scan_type":"connect","ports":["80-81","443"],"service_detection":true,"version_intensity":5,"os_detection":false,"scripts":[],"timing":"normal","ip_version":4,"rate":200,"host_timeout":600,"limit":600,"skip_discovery":true,"engagement":"lab"}`,
		`{"targets":["10.0.0.5"],"profile":"version","scan_type":"udp","ports":["53"],"service_detection":true,"version_intensity":5,"os_detection":false,"scripts":[],"timing":"normal","ip_version":4,"rate":200,"host_timeout":600,"limit":600,"skip_discovery":true,"engagement":"lab"}`,
	} {
		if got, _ := all[i].Call.Arguments(); string(got) != want || len(Validate(all[i].Call)) > 0 {
			t.Errorf("%s", got)
		}
		checkStable(t, all[i].Call)
	}
	if len(all[0].Of) != 4 || len(all[1].Of) != 1 {
		t.Errorf("%v", all)
	}
	// More than a call has room for is left, and named.
	var many []Open
	for i := range 300 {
		many = append(many, Open{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 80})
	}
	for i := range 150 {
		many = append(many, Open{Addr: netip.MustParseAddr("10.0.0.0"), Port: uint16(1000 + 2*i)})
	}
	all, left, err = call.Verifications("lab", many)
	if err != nil || len(all) != 1 || len(all[0].Of)+len(left) != len(many) || len(all[0].Call.Nmap.Targets) != MaxTargets || len(all[0].Call.Nmap.Ports) != maxPortRanges || len(left) != 44+51 {
		t.Errorf("%d calls, %d left, %v", len(all), len(left), err)
	}
}
