package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The transcripts run this very program. Beside it are small commands that only tests need.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"secmcpd": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"nobody":  asNobody,
		"server":  server,
	})
}

// nobody runs secmcpd as a user without any right, who is not let into the directory of this
// program: the program itself is at hand all the same.
func asNobody() {
	cmd := exec.Command("/proc/self/exe", os.Args[2:]...)
	cmd.Args[0] = os.Args[1]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err != nil {
		os.Exit(max(cmd.ProcessState.ExitCode(), 1))
	}
}

// server SOCKET DELAY listens after a delay, reads to the end of one client's input, and only
// then answers with what it read.
func server() {
	delay, err := time.ParseDuration(os.Args[2])
	if err == nil {
		time.Sleep(delay)
		var l net.Listener
		if l, err = net.Listen("unix", os.Args[1]); err == nil {
			var c net.Conn
			if c, err = l.Accept(); err == nil {
				var b []byte
				if b, err = io.ReadAll(c); err == nil {
					time.Sleep(200 * time.Millisecond)
					_, err = fmt.Fprintf(c, "answer to %s", b)
					c.Close()
				}
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// status N PROGRAM ARGUMENT... runs a program that has to exit with N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGUMENT...")
	}
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
		Setup: func(e *testscript.Env) error {
			// nobody has to find its way, and engagements have to be root's.
			for dir := e.WorkDir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					return err
				}
			}
			// Of root, and of somebody at home.
			for name, state := range map[string]string{"secmcpd": e.WorkDir, "home": filepath.Join(e.WorkDir, "home")} {
				settings := fmt.Appendf(nil, "front_user: \"65401\"\nfront_socket: %[1]s/front.sock\nbell_socket: %[1]s/bell.sock\nhttp: {tokens: %[1]s/http-tokens}\nadmin_socket: %[1]s/admin.sock\nlauncher_admin_socket: %[1]s/launcher-admin.sock\nstate_dir: %[1]s/state\nlauncher_state_dir: %[1]s/launcher\n"+
					"audit_dir: %[1]s/audit\nengagements_dir: %[2]s/engagements.d\nrunners_dir: %[2]s/runners.d\n", state, e.WorkDir)
				if err := os.WriteFile(filepath.Join(e.WorkDir, name+".yaml"), settings, 0o644); err != nil {
					return err
				}
			}
			home := filepath.Join(e.WorkDir, "home")
			return errors.Join(os.Mkdir(home, 0o755), os.Chown(home, 65534, 65534))
		},
	})
}
