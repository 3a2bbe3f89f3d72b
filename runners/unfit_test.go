package runners

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestWhatCannotEndInTime(t *testing.T) {
	for _, row := range []struct {
		why, tool, arguments string
		addresses            string
		want                 string // "": it may end in time
	}{
		{"masscan's probes", masscanName, `{"targets":["10.0.0.0/16"],"profile":"web","limit":600}`, "10.0.0.0/16",
			"limit 1580s of 600s: limit: at least 1580, rate: at least 2653, addresses times ports: at most 296000"},
		{"without a second of repeating it would", masscanName, `{"targets":["10.0.0.0/16"],"ports":[80],"retries":3,"limit":100}`, "10.0.0.0/16",
			"limit 280s of 100s: limit: at least 280, rate: at least 3159, retries: at most 0, addresses times ports: at most 20000"},
		{"no rate is high enough", masscanName, `{"targets":["10.0.0.0/16"],"profile":"thorough","limit":600}`, "10.0.0.0/16",
			"limit 8589811s of 600s: addresses times ports: at most 296000"},
		{"masscan in time", masscanName, `{"targets":["10.0.0.0/24"],"limit":600}`, "10.0.0.0/24", ""},
		{"nmap without discovery", nmapName, `{"targets":["10.0.0.0/22"],"ports":["1-1000"],"skip_discovery":true,"limit":600}`, "10.0.0.0/22",
			"limit 1024s of 600s: limit: at least 1024, rate: at least 1707, addresses times ports: at most 600000"},
		{"with discovery it may, as hosts may be down", nmapName, `{"targets":["10.0.0.0/22"],"ports":["1-1000"],"limit":600}`, "10.0.0.0/22", ""},
		{"and may not, if one that is up takes longer", nmapName, `{"targets":["10.0.0.0/24"],"ports":["1-65535"],"limit":60}`, "10.0.0.0/24",
			"limit 66s of 60s: limit: at least 66, rate: at least 1097, ports for each address: at most 59744"},
		{"nor in the time of each host", nmapName, `{"targets":["10.0.0.0/24"],"ports":["1-65535"],"limit":60,"host_timeout":50}`, "10.0.0.0/24",
			"limit 66s of 60s: limit and host_timeout: at least 66, rate: at least 1311, ports for each address: at most 50000"},
		{"who is up", nmapName, `{"targets":["10.0.0.0/16"],"profile":"discovery","rate":100,"limit":600}`, "10.0.0.0/16",
			"limit 656s of 600s: limit: at least 656, rate: at least 110, addresses: at most 60000"},
		{"politely", nmapName, `{"targets":["10.0.0.1"],"profile":"thorough","timing":"polite"}`, "10.0.0.1/32",
			"host_timeout 26214s of 3600s: ports for each address, with timing polite: at most 9000"},
		{"politely, of many hosts", nmapName, `{"targets":["10.0.0.0/26"],"top_ports":500,"timing":"polite","skip_discovery":true,"limit":600}`, "10.0.0.0/26",
			"limit 800s of 600s: limit: at least 800, ports for each address, with timing polite: at most 375"},
		{"politely, and longer than one host may take", nmapName, `{"targets":["10.0.0.0/30"],"ports":["1-20000"],"timing":"polite","skip_discovery":true,"limit":4000}`, "10.0.0.0/30",
			"limit 8000s of 4000s: limit and host_timeout: at least 8000, ports for each address, with timing polite: at most 750"},
		{"gobuster's requests", gobusterName, `{"url":"http://10.0.0.5","rate":10,"limit":60,"extensions":["php"]}`, "10.0.0.5/32",
			"limit 200s of 60s: limit: at least 200, rate: at least 34, words of the wordlist: at most 300"},
		{"gobuster's pauses", gobusterName, `{"url":"http://10.0.0.5","delay_ms":1000,"threads":5,"limit":60}`, "10.0.0.5/32",
			"limit 200s of 60s: limit: at least 200, threads: at least 17, delay_ms: at most 300, words of the wordlist: at most 300"},
		{"without extensions it would", gobusterName, `{"url":"http://10.0.0.5","rate":20,"limit":60,"extensions":["php","txt"]}`, "10.0.0.5/32",
			"limit 150s of 60s: limit: at least 150, rate: at least 50, extensions: at most 0, words of the wordlist: at most 400"},
		{"gobuster in time", gobusterName, `{"url":"http://10.0.0.5","limit":60}`, "10.0.0.5/32", ""},
	} {
		call, faults := Read(row.tool, []byte(row.arguments))
		if len(faults) > 0 {
			t.Fatalf("%s: %v", row.why, faults)
		}
		call = call.WithWords(1000)
		_, err := call.Command(versionsOf[row.tool], prefixes(row.addresses), nil, nil)
		var u *Unfit
		if !errors.As(err, &u) {
			if row.want != "" || err != nil {
				t.Errorf("%s: %v", row.why, err)
			}
			continue
		}
		var would []string
		for _, f := range u.Would {
			would = append(would, f.String())
		}
		if got := fmt.Sprintf("%s %ds of %ds: %s", u.Field, up(u.Needs), up(u.Limit), strings.Join(would, ", ")); got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.why, got, row.want)
		}
		for _, f := range u.Would {
			if left := fitted(call, f, f.Number, countAddresses(prefixes(row.addresses))); left != nil {
				t.Errorf("%s: with %s it is still too long: %v", row.why, f, left)
			}
			further := f.Number - max(f.Number/10, 1)
			if f.Most {
				further = f.Number + max(f.Number/5, 1)
			}
			if left := fitted(call, f, further, countAddresses(prefixes(row.addresses))); left == nil {
				t.Errorf("%s: %s is more than is needed: %d would do", row.why, f, further)
			}
		}
	}
}

var versionsOf = map[string]Version{nmapName: tested, masscanName: testedMasscan, gobusterName: {3, 5}}

// fitted is what is still wrong with a call after a change.
func fitted(call Call, f Fit, number, addresses int64) *Unfit {
	switch {
	case call.Masscan != nil:
		m, probes := *call.Masscan, addresses*int64(countPorts(call.Masscan.Ports))
		switch f.What {
		case "limit":
			m.Limit = int(number)
		case "rate":
			m.Rate = int(number)
		case "retries":
			m.Retries = int(number)
		default:
			probes = number
		}
		rate := m.Rate
		if rate == 0 {
			rate = DefaultRate
		}
		return m.unfit(rate, probes)
	case call.Nmap != nil:
		n := *call.Nmap
		switch f.What {
		case "limit":
			if n.HostTimeout == n.Limit { // not given
				n.HostTimeout = int(number)
			}
			n.Limit = int(number)
		case BothTimes:
			n.Limit, n.HostTimeout = int(number), int(number)
		case "host_timeout":
			n.HostTimeout = int(number)
		case "rate":
			n.Rate = int(number)
		case "addresses":
			addresses = number
		case "addresses times ports":
			addresses = number / int64(n.portCount())
			if number%int64(n.portCount()) > 0 {
				addresses++
			}
		default:
			n.Ports, n.TopPorts = nil, int(number)
		}
		return n.unfit(addresses)
	}
	g := *call.Gobuster
	switch f.What {
	case "limit":
		g.Limit = int(number)
	case "rate":
		g.Rate = int(number)
	case "threads":
		g.Threads = int(number)
	case "delay_ms":
		g.Delay = int(number)
	case "extensions":
		g.Extensions = make([]string, number)
	default:
		g.Lines = number
	}
	return g.unfit()
}

// What a call is expected to take at most is never less than what it takes at least.
func TestTimesAgree(t *testing.T) {
	for _, arguments := range []string{`{"targets":["10.0.0.0/24"]}`, `{"targets":["10.0.0.5"],"profile":"thorough"}`, `{"targets":["10.0.0.0/22"],"profile":"discovery"}`,
		`{"targets":["10.0.0.5"],"timing":"polite"}`, `{"targets":["10.0.0.0/28"],"scan_type":"udp","skip_discovery":true}`} {
		n := mustRead(t, arguments).Nmap
		count := n.addressCount()
		probes, pauses := n.least(count)
		least := max(time.Duration(probes/int64(n.rate()))*time.Second, pauses)
		if probes > n.packets(count) || least > n.duration(count) {
			t.Errorf("%s: at least %d probes in %v, at most %d in %v", arguments, probes, least, n.packets(count), n.duration(count))
		}
	}
}
