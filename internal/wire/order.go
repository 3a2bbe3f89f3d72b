package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Order is what an operator asks of the launcher over its own socket (launcher-admin.sock,
// SOCK_SEQPACKET): one order a packet, in the same canonical form as a [Message], answered by one
// [Answer]. Exactly one field is set. No descriptor travels either way.
//
// Who gives an order the kernel says (SO_PEERCRED); nothing in it does.
type Order struct {
	Look    *Look         `cbor:"look,omitempty"`
	Breaker *BreakerOrder `cbor:"breaker,omitempty"`
	Stop    *Stop         `cbor:"stop,omitempty"`
	Pending *Pending      `cbor:"pending,omitempty"`
	Show    *Show         `cbor:"show,omitempty"`
	Approve *Approve      `cbor:"approve,omitempty"`
	Deny    *Deny         `cbor:"deny,omitempty"`
	Drain   *Drain        `cbor:"drain,omitempty"`
	Reload  *Reload       `cbor:"reload,omitempty"`
}

// Look asks for the launcher's state.
type Look struct{}

// Answer is what came of an order: Refused, or what was asked for, or nothing where it was carried
// out and there is nothing to say.
type Answer struct {
	Refused *Refusal `cbor:"refused,omitempty"`
	State   *State   `cbor:"state,omitempty"`
	// To a BreakerOrder: a list, or one.
	Breakers *BreakerPage   `cbor:"breakers,omitempty"`
	Breaker  *BreakerDetail `cbor:"breaker,omitempty"`
	Stopped  *Stopped       `cbor:"stopped,omitempty"`
	// Pending answers a Pending, Exact a Show.
	Pending  []Awaited `cbor:"pending,omitempty"`
	Exact    *Exact    `cbor:"exact,omitempty"`
	Reloaded *Reloaded `cbor:"reloaded,omitempty"`
}

// OrderTimeout bounds how long an operator waits for an answer, unless ctx ends before.
const OrderTimeout = 60 * time.Second

// Give gives one order to the launcher that listens at path. What it refuses is no error: it is in the
// answer.
func Give(ctx context.Context, path string, o Order) (Answer, error) {
	ctx, done := context.WithTimeout(ctx, OrderTimeout)
	defer done()
	fail := func(err error) (Answer, error) {
		return Answer{}, fmt.Errorf("cannot ask the launcher at %s: %w", path, errors.Join(err, context.Cause(ctx)))
	}
	packet, err := Encode(&o, MaxMessage)
	if err != nil {
		return fail(err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", path)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(packet); err != nil {
		return fail(err)
	}
	b := make([]byte, MaxMessage+1)
	n, err := conn.Read(b)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return fail(err)
	}
	var a Answer
	if err := Decode(b[:n], MaxMessage, &a); err != nil {
		return fail(fmt.Errorf("%w (the command and the launcher are of different versions, most likely)", err))
	}
	return a, nil
}

// ReceiveOrder reads one order from an operator's connection, which has a deadline. io.EOF: there will
// be no more.
func ReceiveOrder(c *net.UnixConn) (Order, error) {
	var o Order
	b := make([]byte, MaxMessage+1)
	n, _, _, _, err := c.ReadMsgUnix(b, nil) // with no buffer for descriptors the kernel discards them
	if err == nil && n == 0 || errors.Is(err, syscall.ECONNRESET) {
		return o, io.EOF
	}
	if err != nil {
		return o, fmt.Errorf("cannot receive an order: %w", err)
	}
	if err := Decode(b[:n], MaxMessage, &o); err != nil {
		return o, fmt.Errorf("cannot receive an order: %w", err)
	}
	return o, o.check()
}

// SendAnswer answers it.
func SendAnswer(c *net.UnixConn, a Answer) error {
	packet, err := Encode(&a, MaxMessage)
	if err != nil {
		return fmt.Errorf("cannot answer an order: %w", err)
	}
	if _, err := c.Write(packet); err != nil {
		return fmt.Errorf("cannot answer an order: %w", err)
	}
	return nil
}

func (o *Order) check() error {
	n := 0
	for _, set := range []bool{o.Look != nil, o.Breaker != nil, o.Stop != nil, o.Pending != nil, o.Show != nil, o.Approve != nil, o.Deny != nil, o.Drain != nil, o.Reload != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("an order has %d kinds, not one", n)
	}
	if o.Breaker != nil {
		return o.Breaker.check()
	}
	if o.Stop != nil {
		return checkJobID(o.Stop.Job)
	}
	return o.checkApproval()
}
