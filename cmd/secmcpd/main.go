// Command secmcpd lets AI agents use network scanners from this machine, within engagements
// that its operator wrote. One binary, three roles: see docs/architecture.md.
package main

import (
	"os"
	_ "time/tzdata" // engagements have hours in time zones; a small machine may have no zone data
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
