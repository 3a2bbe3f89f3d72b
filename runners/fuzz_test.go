package runners

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// FuzzRead: whatever is read, its command line holds nothing of the caller's but numbers and judged addresses.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`{"targets":["10.0.0.5"]}`,
		`{"targets":["10.0.0.0/24","host.lab.internal"],"profile":"thorough","os_detection":true,"limit":600}`,
		`{"targets":["fd00::/120"],"ip_version":6,"profile":"version","version_intensity":2}`,
		`{"targets":["10.0.0.0/29"],"scan_type":"udp","ports":[53,"100-200"],"rate":100,"timing":"polite"}`,
		`{"targets":["10.0.0.5"],"scripts":["ssl-cert","http-enum"],"engagement":"lab","host_timeout":30,"skip_discovery":false}`,
		`{"targets":["-iL/etc/passwd","--script=x"],"profile":"-A"}`,
		`{"targets":["10.0.0.1,8.8.8.8","::ffff:1.2.3.4","012.1"],"targets":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, arguments []byte) {
		call, faults := Read(nmapName, arguments)
		if len(faults) > 0 {
			for _, fault := range faults {
				if fault.Code == "" || fault.Field == "" || len([]rune(fault.Got)) > 64 {
					t.Errorf("a fault that says too little or too much: %+v", fault)
				}
			}
			return
		}
		checkStable(t, call)
		checkCommand(t, call)
	})
}

// checkCommand builds the command of a call whose names resolve to one address, and looks at every word of it.
func checkCommand(t *testing.T, call Call) {
	t.Helper()
	var judged []netip.Prefix
	name := "10.9.8.7/32"
	if call.Plan().IPv6 {
		name = "fd00:9::7/128"
	}
	for _, target := range call.Plan().Targets {
		if target.Name != "" {
			target.Prefix = netip.MustParsePrefix(name)
		}
		if !slices.Contains(judged, target.Prefix) {
			judged = append(judged, target.Prefix)
		}
	}
	command, err := call.Command(tested, judged, nil, nil)
	if err != nil {
		if countAddresses(judged) > MaxAddresses {
			return
		}
		t.Fatalf("no command for %+v: %v", call.Nmap, err)
	}
	end := slices.Index(command.Argv, "--")
	if end < 0 || len(command.Argv) != end+1+len(judged) {
		t.Fatalf("operands: %q", command.Argv)
	}
	for i, word := range command.Argv[:end] {
		if !knownWord(command.Argv, i) {
			t.Errorf("%q is no word of this package in %q", word, command.Argv)
		}
	}
	for _, operand := range command.Argv[end+1:] {
		if p, err := parseOperand(operand); err != nil || !slices.Contains(judged, p) {
			t.Errorf("operand %q is not one of the judged addresses: %v", operand, err)
		}
	}
	if strings.ContainsRune(strings.Join(command.Argv, ""), 0) || argvBytes(command.Argv) > maxArgvBytes {
		t.Errorf("a NUL or too long: %q", command.Argv)
	}
	if command.Packets <= 0 || command.Time <= 0 {
		t.Errorf("%d packets in %v", command.Packets, command.Time)
	}
}

func parseOperand(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	return netip.PrefixFrom(addr, addr.BitLen()), err
}

var flags = strings.Fields(`nmap --datadir -n -v -oX --stats-every --privileged --unprivileged -T3 -T4 --scan-delay --max-rate --max-hostgroup
	--host-timeout -sT -sS -sU -sn -6 -Pn -p --top-ports -sV --version-intensity -O --script`)

// knownWord says whether argv[i] is one of the options above, or the value that belongs to the option before it.
func knownWord(argv []string, i int) bool {
	if strings.HasPrefix(argv[i], "-") && argv[i] != "-" || i == 0 {
		return slices.Contains(flags, argv[i])
	}
	only := func(allowed string) bool { return strings.Trim(argv[i], allowed) == "" && argv[i] != "" }
	switch argv[i-1] {
	case "--datadir":
		return argv[i] == nmapData
	case "-oX":
		return argv[i] == "-"
	case "--stats-every":
		return argv[i] == "1s"
	case "--max-rate", "--max-hostgroup", "--top-ports", "--version-intensity":
		return only("0123456789")
	case "--host-timeout":
		return only("0123456789s")
	case "--scan-delay":
		return argv[i] == "400ms"
	case "-p":
		return only("0123456789,-")
	case "--script":
		return !slices.ContainsFunc(strings.Split(argv[i], ","), func(s string) bool {
			_, ok := scriptNamed(s)
			return !ok
		})
	}
	return false
}

// Every dangerous option of nmap, tried as every argument: refused, or (a number that happens to be allowed) inert.
func TestDangerousOptionsAreRefusedEverywhere(t *testing.T) {
	rows := tryTable(t, BuiltIn(), "testdata/nmap_dangerous.txt", nmapName, fieldNames(nmapFields()), []map[string]any{{"targets": []string{"10.0.0.5"}}},
		func(call Call) { checkCommand(t, call) })
	if rows < 60 {
		t.Errorf("the table has %d options", rows)
	}
}
