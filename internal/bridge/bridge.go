// Package bridge carries bytes between an agent's standard input and output and the daemon's socket.
// It parses nothing and reconnects to nothing: a session that is lost is for the agent to open again.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// What agents get unless they say otherwise.
const (
	Socket = "/run/secmcpd/mcp.sock"
	Retry  = 2 * time.Second
	Drain  = 60 * time.Second
)

// Connect bridges in and out with the socket at a path until either side ends or ctx does. It tries
// for the time of retry while nobody listens, and waits at most drain for answers after the end of in.
func Connect(ctx context.Context, path string, retry, drain time.Duration, in io.Reader, out io.Writer) error {
	conn, err := Dial(ctx, path, retry)
	if err != nil {
		return err
	}
	defer conn.Close()
	return copyBoth(ctx, conn, in, out, drain)
}

// Dial connects to the socket at a path. It tries for a while: the socket is missing or refuses for
// moments only when the package is upgraded or the machine boots.
func Dial(ctx context.Context, path string, retry time.Duration) (*net.UnixConn, error) {
	deadline := time.Now().Add(retry)
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if hint := dialHint(err, path); hint != "" || time.Now().After(deadline) {
			if hint == "" {
				hint = "is the daemon's socket active? `systemctl status secmcpd.socket`"
			}
			return nil, fmt.Errorf("cannot connect to %s: %w\nhint: %s", path, errors.Unwrap(err), hint)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// dialHint says what follows from an error that waiting does not mend; "" asks for another try.
func dialHint(err error, path string) string {
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "agents' users belong to the group that owns the socket: `sudo usermod -aG secmcpd-agents \"$USER\"`, then log in again (`ls -l " + path + "` shows the group)"
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EAGAIN):
		return ""
	}
	return "is " + path + " the daemon's socket?"
}

// copyBoth copies both ways. The end of input is passed on as such, and answers are awaited for
// at most drain; the end of the daemon's side ends the bridge.
func copyBoth(ctx context.Context, conn *net.UnixConn, in io.Reader, out io.Writer, drain time.Duration) error {
	answers := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, conn)
		answers <- err
	}()
	requests := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, in)
		requests <- err
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-answers:
			if err != nil && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("connection lost: %w", err)
			}
			return nil
		case err := <-requests:
			if err != nil {
				return fmt.Errorf("cannot pass on the input: %w", err)
			}
			if err := conn.CloseWrite(); err != nil {
				return fmt.Errorf("cannot pass on the end of input: %w", err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(drain)); err != nil {
				return err
			}
			requests = nil
		}
	}
}
