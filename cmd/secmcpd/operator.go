package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// maxFrontAnswer bounds what the front answers an operator, in bytes.
const maxFrontAnswer = 16 << 20

// found are the settings as far as they can be read, to find a daemon that runs: it has those that it was
// started with, and an operator reaches it also while the files have faults. What is not said well has its
// default.
func (s *surroundings) found() settings {
	said, _, err := readSettings(s.config)
	known := defaultSettings()
	for _, of := range []struct{ said, known *string }{{&said.AdminSocket, &known.AdminSocket}, {&said.LauncherAdmin, &known.LauncherAdmin}} {
		if err != nil && !filepath.IsAbs(*of.said) {
			*of.said = *of.known
		}
	}
	return said
}

// launcherAsk gives the launcher an order. What it refuses is an error here.
func (s *surroundings) launcherAsk(ctx context.Context, o wire.Order) (wire.Answer, error) {
	a, err := wire.Give(ctx, s.found().LauncherAdmin, o)
	if err != nil {
		return a, reached(err, "secmcpd-launcher-admin.socket")
	}
	if r := a.Refused; r != nil {
		return a, refusedOrder(r)
	}
	return a, nil
}

// refusedOrder is a refusal as an error for an operator's terminal.
func refusedOrder(r *wire.Refusal) error {
	return errors.New(toolProblem{Code: r.Code, Field: r.Field, Got: r.Got, Allowed: r.Allowed, Reason: r.Reason, Hint: r.Hint, Rule: r.Rule}.String())
}

// frontGet reads what the front answers operators at path.
func (s *surroundings) frontGet(ctx context.Context, path string, into any) error {
	settings := s.found()
	client := http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", settings.AdminSocket)
		}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://front"+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return reached(fmt.Errorf("cannot ask the front at %s: %w", settings.AdminSocket, errors.Unwrap(err)), "secmcpd-admin.socket")
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxFrontAnswer))
	if err != nil {
		return fmt.Errorf("cannot read what the front answers: %w", err)
	}
	if answer.StatusCode >= 400 {
		var no struct {
			Error *wire.Refusal `json:"error"`
		}
		if json.Unmarshal(body, &no) == nil && no.Error != nil {
			return refusedOrder(no.Error)
		}
		return fmt.Errorf("the front answers %s", answer.Status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("cannot read what the front answers: %w", err)
	}
	return nil
}

// reached says what can be done about a socket that nobody answers at.
func reached(err error, unit string) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w\nhint: operators are root and the members of the group secmcpd-admin", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w\nhint: is the socket there? `systemctl status %s`", err, unit)
	}
	return err
}
