package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/runners"
)

// Tools can be switched off while the launcher runs: root writes a small file in its state directory,
// and it looks at that before each decision.

const (
	switchesName = "tools.yaml"
	maxSwitches  = 64 << 10 // bytes of the file
)

type switchesFile struct {
	Disabled []string `yaml:"disabled"`
}

// Disabled are the tools that are switched off, sorted. Without a file there is none.
func Disabled(stateDir string) ([]string, error) {
	path := filepath.Join(stateDir, switchesName)
	data, err := readTrusted(path, maxSwitches)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell which tools are disabled: %w", err)
	}
	var f switchesFile
	if _, faults := strict.Decode(path, data, &f); len(faults) > 0 {
		return nil, fmt.Errorf("cannot tell which tools are disabled: %w", faults)
	}
	slices.Sort(f.Disabled)
	return slices.Compact(f.Disabled), nil
}

// SetDisabled switches a tool off or on, whole and synced: a launcher that looks sees the old file or
// the new one. Of two that do this at once one waits.
func SetDisabled(stateDir, tool string, off bool) error {
	fail := func(err error) error { return fmt.Errorf("cannot switch %s: %w", tool, err) }
	dir, err := os.Open(stateDir)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fail(err)
	}
	disabled, err := Disabled(stateDir)
	if err != nil {
		return err
	}
	disabled = slices.DeleteFunc(disabled, func(t string) bool { return t == tool })
	if off {
		disabled = append(disabled, tool)
	}
	slices.Sort(disabled)
	text := bytes.NewBufferString("# Written by `secmcpd tools`.\n")
	if len(disabled) > 0 {
		text.WriteString("disabled:\n")
	}
	for _, t := range disabled {
		fmt.Fprintf(text, "  - %s\n", t)
	}
	temp := filepath.Join(stateDir, "."+switchesName)
	if err := writeSynced(temp, text.Bytes()); err != nil {
		return fail(err)
	}
	if err := os.Rename(temp, filepath.Join(stateDir, switchesName)); err != nil {
		return fail(err)
	}
	return dir.Sync()
}

// switches is which tools are off, as the file last said.
type switches struct {
	dir string

	mu       sync.Mutex
	stamp    string
	disabled []string
	err      error // why it is not known: nothing is run then
}

// look reads the file again if it has changed.
func (s *switches) look() (disabled []string, changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamp := "none"
	if info, err := os.Lstat(filepath.Join(s.dir, switchesName)); err == nil {
		stamp = stampOf(info)
	} else if !errors.Is(err, fs.ErrNotExist) {
		stamp = err.Error()
	}
	if stamp == s.stamp {
		return s.disabled, false, s.err
	}
	first := s.stamp == ""
	s.stamp = stamp
	s.disabled, s.err = Disabled(s.dir)
	return s.disabled, !first || len(s.disabled) > 0 || s.err != nil, s.err
}

// switched is which tools are off now. A change is on the record.
func (l *Launcher) switched() ([]string, error) {
	disabled, changed, err := l.switches.look()
	if !changed {
		return disabled, err
	}
	r := observability.Record{Event: observability.Tools, Targets: disabled, TargetCount: len(disabled)}
	if err != nil {
		r.Reason = clip(err.Error())
		l.log.Error("every scan is refused until this is mended", journal.Key, journal.ToolsUnknown, "why", err)
	} else {
		l.log.Info("tools that are disabled", journal.Key, journal.ToolsSwitched, "tools", disabled)
	}
	l.note(r)
	return disabled, err
}

// off refuses a tool that the operator has switched off, in the configuration or while the launcher
// runs. A scan that runs already goes on.
func (l *Launcher) off(set *Live, tool string) *wire.Refusal {
	disabled, err := l.switched()
	switch {
	case err != nil:
		r := switchedOff(tool, "", "which tools the operator has disabled cannot be read, so that none is used", true)
		r.Hint = "the operator finds the cause in the log"
		return r
	case set.Tools.Off(tool):
		return switchedOff(tool, "tools.include, tools.exclude", "the operator has left this tool out of the configuration", false)
	case slices.Contains(disabled, tool):
		return switchedOff(tool, "secmcpd tools disable "+tool, "the operator has disabled this tool", true)
	}
	return nil
}

// stillThere refuses a call whose tool is off by now, or is declared otherwise than when it was asked
// for: what its arguments mean to that declaration nobody has judged.
func (l *Launcher) stillThere(set *Live, call runners.Call) *wire.Refusal {
	if refused := l.off(set, call.Tool); refused != nil {
		return refused
	}
	if call.Declared == nil {
		return nil
	}
	if _, faults := set.Tools.Validate(call); len(faults) > 0 {
		return &wire.Refusal{Code: "declaration_changed", Field: "tool", Got: call.Tool, Reason: "the operator has changed or removed the declaration of this scanner since the scan was asked for",
			Hint: "read the tool's schema again, and ask again", Retryable: true}
	}
	return nil
}

func switchedOff(tool, rule, reason string, retryable bool) *wire.Refusal {
	return &wire.Refusal{Code: "tool_disabled", Field: "tool", Got: tool, Rule: rule, Reason: reason, Retryable: retryable,
		Hint: "capabilities says which tools there are; the operator enables this one"}
}
