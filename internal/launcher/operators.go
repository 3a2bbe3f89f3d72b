package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const (
	// maxOperators bounds the operators' connections at once.
	maxOperators = 16
	// orderTimeout bounds the silence of one of them, and the writing of an answer.
	orderTimeout = 10 * time.Second
)

// acceptOperators takes orders on the operators' socket until ctx ends. Who may connect is said by
// its mode; who it was, by the kernel.
func (l *Launcher) acceptOperators(ctx context.Context) error {
	if l.cfg.Operators == nil {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = l.cfg.Operators.SetDeadline(time.Unix(1, 0)) })()
	places := make(chan struct{}, maxOperators)
	for {
		conn, err := l.cfg.Operators.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			l.log.Error("cannot accept for lack of descriptors", "why", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot accept operators: %w", err)
		}
		select {
		case places <- struct{}{}:
		default:
			l.log.Warn("operator refused: too many are connected", "most", maxOperators)
			conn.Close()
			continue
		}
		l.answering.Go(func() {
			defer func() { <-places }()
			if err := l.serveOperator(ctx, conn); err != nil && ctx.Err() == nil {
				l.log.Warn("operator lost", "why", err)
			}
		})
	}
}

// serveOperator answers one operator, order by order.
func (l *Launcher) serveOperator(ctx context.Context, conn *net.UnixConn) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	who, err := peer(conn)
	if err != nil {
		return err
	}
	if who.UID == l.cfg.FrontUID || l.cfg.isSlotUID(who.UID) {
		return fmt.Errorf("uid %d is the front's or a box's: it is never an operator", who.UID)
	}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(orderTimeout)); err != nil {
			return err
		}
		o, err := wire.ReceiveOrder(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := l.knowsFilter(ctx); err != nil {
			return err
		}
		a := l.operate(ctx, who, o)
		if err := conn.SetWriteDeadline(time.Now().Add(orderTimeout)); err != nil {
			return err
		}
		if err := wire.SendAnswer(conn, a); err != nil {
			return err
		}
	}
}

// operate carries out one order. Whatever it changes is on the record, with who gave it.
func (l *Launcher) operate(ctx context.Context, who wire.Client, o wire.Order) wire.Answer {
	switch {
	case o.Look != nil:
		state := l.state()
		return wire.Answer{State: &state}
	case o.Breaker != nil:
		return l.orderBreaker(who, *o.Breaker)
	case o.Stop != nil:
		return l.stopFor(who, *o.Stop)
	case o.Pending != nil:
		return wire.Answer{Pending: l.pendingNow()}
	case o.Show != nil:
		a, refused := l.awaitedJob(o.Show.Job)
		if refused != nil {
			return wire.Answer{Refused: refused}
		}
		return wire.Answer{Exact: &a.exact}
	case o.Approve != nil:
		return wire.Answer{Refused: l.approve(who, *o.Approve)}
	case o.Drain != nil:
		return l.drained(who, *o.Drain)
	case o.Deny != nil:
		return wire.Answer{Refused: l.deny(who, *o.Deny)}
	case o.Reload != nil:
		return l.orderReload(ctx, who, *o.Reload)
	}
	return wire.Answer{Refused: &wire.Refusal{Code: "unknown_order", Reason: "this launcher does not know the order", Hint: hintRooms}}
}
