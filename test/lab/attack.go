package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed attack/attack.c
var attackSource []byte

// Attacks is the hostile sender, built: see attack/attack.c.
type Attacks struct {
	path string
	List []Attack
}

// Attack is one mode of it in one family.
type Attack struct {
	Mode string
	IPv6 bool
}

func (a Attack) String() string {
	if a.IPv6 {
		return a.Mode + " (IPv6)"
	}
	return a.Mode
}

// BuildAttacks compiles the sender into a directory that other users are let into.
func BuildAttacks(dir string) (*Attacks, error) {
	path := filepath.Join(dir, "attack")
	if err := os.WriteFile(path+".c", attackSource, 0o644); err != nil {
		return nil, err
	}
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", path, path+".c").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot compile the attacks: %w\n%s", err, out)
	}
	return BuiltAttacks(path)
}

// BuiltAttacks is a sender that was compiled elsewhere, for a machine without a compiler.
func BuiltAttacks(path string) (*Attacks, error) {
	out, err := exec.Command(path, "list").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list the attacks: %w", err)
	}
	a := &Attacks{path: path}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		for _, family := range fields[1:] {
			a.List = append(a.List, Attack{fields[0], family == "6"})
		}
	}
	return a, nil
}

// Run runs an attack three times from a sender, as a user whose only capability is CAP_NET_RAW,
// and tells what the kernel said to each: "sent 2 of 3, EPERM". What was refused is no error.
func (a *Attacks) Run(s Sender, what Attack) (said string, err error) {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	e := s.Four
	if what.IPv6 {
		e = s.Six
	}
	cmd := exec.CommandContext(ctx, a.path, what.Mode, "--iface", "eth0", "--src", e.Source.String(), "--gateway", e.Gateway.String(),
		"--host", e.Machine.String(), "--allowed", e.Allowed.String(), "--forbidden", e.Forbidden.String())
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_NET_RAW}}
	var out []byte
	err = in(s.NS, func() (err error) {
		out, err = cmd.CombinedOutput() // it is forked by the thread that is in the namespace
		return err
	})
	const refused = 3
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == refused {
		err = nil
	}
	said = strings.TrimSpace(string(out))
	if err != nil {
		return said, fmt.Errorf("%s: %w: %s", what, err, said)
	}
	return said, nil
}
