// Command secmcpd lets AI agents use network scanners from this machine, within engagements
// that its operator wrote. One binary, three roles: see docs/architecture.md.
package main

import (
	"os"
	_ "time/tzdata" // engagements have hours in time zones; a small machine may have no zone data

	"github.com/secmcpd/secmcpd/sandbox"
)

func main() {
	// The inside of a box comes before everything else: no flag is parsed there and no
	// library gets a turn.
	if len(os.Args) == 2 && os.Args[1] == "box-init" {
		sandbox.Init()
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
