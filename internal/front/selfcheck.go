package front

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// selfCheck says what protects this room. It refuses to start with privilege; what else is
// missing are gaps, which the launcher refuses or has been told to accept.
func selfCheck() ([]wire.Gap, error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become undumpable: %w", err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("cannot look at own privileges: %w", err)
	}
	if os.Getuid() == 0 || os.Geteuid() == 0 {
		return nil, errors.New("the front does not run as root: systemd starts it as its own user")
	}
	var gaps []wire.Gap
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch key {
		case "CapPrm", "CapEff", "CapInh", "CapAmb":
			if strings.Trim(value, "0") != "" {
				return nil, fmt.Errorf("the front does not run with capabilities: %s is %s", key, value)
			}
		case "NoNewPrivs":
			if value != "1" {
				gaps = append(gaps, wire.Gap{Layer: wire.FrontPrivileges, Why: "the front was started without no_new_privs",
					Follows: "a front that is taken over could run set-uid programs"})
			}
		}
	}
	if name := networkInterface(); name != "" {
		gaps = append(gaps, wire.Gap{Layer: wire.FrontNetwork, Why: "the front has the network interface " + name,
			Follows: "a front that is taken over could send to the network"})
	}
	return gaps, nil
}

// networkInterface names an interface that could carry traffic, or "". A unit that lets the
// front have no socket but a Unix one makes the question itself fail: that is none.
func networkInterface() string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			return i.Name
		}
	}
	return ""
}
