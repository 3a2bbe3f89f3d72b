package session

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// atOnce answers a call whose result is ready. The SDK decodes a call three times, each time with a
// buffer of 32 KiB, hands it from one goroutine to the next, and encodes the result again, which
// takes many times as long as to find it. The call has been read and counted as any other. Only one
// is answered here that the SDK would take without a word, and what is sent is what it would send.
func (l *lines) atOnce(ctx context.Context, m jsonrpc.Message) (done bool, err error) {
	r, is := m.(*jsonrpc.Request)
	if !is || l.speaker.Ready == nil || r.Method != callTool || !r.IsCall() || !l.isPlain() {
		return false, nil
	}
	tool, arguments, plain := plainCall(r.Params)
	if !plain {
		return false, nil
	}
	result := l.speaker.findReady(ctx, tool, arguments)
	if result == nil {
		return false, nil
	}
	return true, l.send(answer(r.ID, result, nil), func() bool { return l.finish(r.ID, true) })
}

// findReady is Ready, of which a panic is nothing found: the call takes the ordinary way.
func (s *Speaker) findReady(ctx context.Context, tool string, arguments json.RawMessage) (result json.RawMessage) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a handler panicked", "method", callTool, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			result = nil
		}
	}()
	return s.Ready(ctx, tool, arguments)
}

// plainEra says whether an initialize asks for an era of sessions. One that asks for a later one gets
// such a session, too, and results of the later era in it.
func plainEra(params json.RawMessage) (plain bool) {
	if params != nil {
		members(params, func(name string, value json.RawMessage) {
			if name == "protocolVersion" {
				plain = string(value) == `"2025-11-25"` || string(value) == `"2025-06-18"`
			}
		})
	}
	return plain
}

// plainCall takes the parameters of a call apart, if they have nothing that the SDK might refuse or
// act on: an era of their own, answers to what was asked before, a number that it cannot hold.
func plainCall(params json.RawMessage) (tool string, arguments json.RawMessage, plain bool) {
	if params == nil {
		return "", nil, false
	}
	plain = true
	members(params, func(name string, value json.RawMessage) {
		switch name {
		case "name":
			plain = plain && json.Unmarshal(value, &tool) == nil
		case "arguments":
			arguments = value
		case "_meta":
			plain = plain && value[0] == '{' && plainMeta(value)
		default:
			plain = false
		}
	})
	return tool, arguments, plain
}

func plainMeta(meta json.RawMessage) bool {
	plain := true
	members(meta, func(name string, value json.RawMessage) {
		plain = plain && name != mcp.MetaKeyProtocolVersion && (value[0] == '"' || name == "progressToken")
	})
	return plain
}
