package launcher

import (
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// Asks is what a call asks of policy, as the launcher has it judged.
func Asks(call runners.Call) policy.Request { return asked(call.Plan(), call.Tool) }

// Shown is a verdict as the launcher tells it, with its lists cut.
func Shown(v policy.Verdict) wire.Verdict { return onWire(v) }
