package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A room takes the place of one that was killed, and of nobody else.
func TestASocketIsMadeWhereNobodyListens(t *testing.T) {
	bind := func(t *testing.T, network, path string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	for _, kind := range []string{"unix", "unixpacket"} {
		for _, c := range []struct {
			says   string
			before func(t *testing.T, path string) *net.UnixListener // who listens there
			wrong  string
		}{
			{"nothing is there", func(*testing.T, string) *net.UnixListener { return nil }, ""},
			{"a room was killed", func(t *testing.T, path string) *net.UnixListener { bind(t, kind, path).Close(); return nil }, ""},
			{"a room listens", func(t *testing.T, path string) *net.UnixListener { return bind(t, kind, path) }, "somebody listens there"},
			{"something else is there", func(t *testing.T, path string) *net.UnixListener {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return nil
			}, "address already in use"},
			{"a link leads to where a room was", func(t *testing.T, path string) *net.UnixListener {
				bind(t, kind, path+".old").Close()
				if err := os.Symlink(path+".old", path); err != nil {
					t.Fatal(err)
				}
				return nil
			}, "address already in use"},
		} {
			t.Run(kind+": "+c.says, func(t *testing.T) {
				dir, err := os.MkdirTemp("", "listen") // the name of a test would make the path too long
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				path := filepath.Join(dir, "a.sock")
				there := c.before(t, path)
				first := filepath.Join(dir, "first.sock")
				made, err := listen([]listening{{"first", kind, first, ""}, {"a", kind, path, strconv.Itoa(os.Getgid())}})
				if c.wrong != "" {
					if err == nil || !strings.Contains(err.Error(), c.wrong) {
						t.Fatalf("%v, want %q", err, c.wrong)
					}
					if _, err := os.Lstat(first); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("the one made before is left: %v", err)
					}
				} else {
					if err != nil {
						t.Fatal(err)
					}
					info, err := os.Lstat(path)
					if err != nil || info.Mode() != fs.ModeSocket|0o660 || info.Sys().(*syscall.Stat_t).Gid != uint32(os.Getgid()) {
						t.Errorf("%v, %v", info, err)
					}
					shut(made, nil)
					if left, _ := filepath.Glob(filepath.Join(dir, "*.sock")); len(left) > 0 {
						t.Errorf("left: %v", left)
					}
				}
				if there == nil {
					return
				}
				if err := there.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				if _, err := there.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("who listens was disturbed: %v", err)
				}
				if c, err := net.Dial(kind, path); err != nil {
					t.Errorf("who listens cannot be reached any more: %v", err)
				} else {
					c.Close()
				}
			})
		}
	}
}
