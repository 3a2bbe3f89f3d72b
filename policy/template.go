package policy

import (
	"fmt"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// templateTerm is how long an engagement from the template lasts. Work that was forgotten ends
// by itself.
const templateTerm = 90 * 24 * time.Hour

const template = `# Who may scan what, when, and how hard. private-lab.yaml explains every key.
name: %s
description: What the work is, and who ordered it.

callers:
  groups: [secmcpd-agents]

# Replace these by the networks that you may scan; the one below is of the documentation.
targets:
  - 192.0.2.0/24
  # - name: .example.internal
  #   within: [192.0.2.0/24]
  # - network: 192.0.2.128/25
  #   ports: [22, 443, 8000-8100, udp/53]

exclude: []

# hours:
#   days: [mon, tue, wed, thu, fri]
#   from: "08:00"
#   to: "18:00"
#   timezone: UTC

# The last day.
expires: %s

tools:
  nmap_scan:
    profiles: ["*"]

limits:
  addresses_per_job: 256
  ports_per_address: 65535
  packets_per_second: 1000
  duration: 1h
  jobs: 4
  # total_packets_per_second: 2000

intrusive: deny
`

// Template is the text of an engagement for an operator to fill in. It parses as it is, and
// ends ninety days from now.
func Template(name string, now time.Time) (string, error) {
	if !engagementName.MatchString(name) {
		return "", fmt.Errorf("cannot name an engagement %s: a name is %s", strict.Quote(name), nameForm)
	}
	return fmt.Sprintf(template, name, now.Add(templateTerm).UTC().Format(time.DateOnly)), nil
}
