package session

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// atOnce answers a call whose result is ready. The SDK decodes a call three times, each time with a
// buffer of 32 KiB, hands it from one goroutine to the next, and encodes the result again, which
// takes many times as long as to find it. The call has been read and counted as any other. Only one
// is answered here that the SDK would take without a word, and what is sent is what it would send.
func (l *lines) atOnce(ctx context.Context, m jsonrpc.Message) (done bool, err error) {
	r, is := m.(*jsonrpc.Request)
	if !is || l.speaker.Ready == nil || r.Method != callTool || !r.IsCall() {
		return false, nil
	}
	tool, arguments, of := plainCall(r.Params)
	if of == 0 || !l.hasBegun(of) {
		return false, nil
	}
	result := l.speaker.findReady(ctx, tool, arguments)
	if result == nil {
		return false, nil
	}
	if of == withoutSessions {
		result = slices.Concat([]byte(`{"_meta":{"`+mcp.MetaKeyServerInfo+`":`), l.speaker.Info, []byte("},"), result[1:len(result)-1], []byte(`,"resultType":"complete"}`))
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

// begins is the era that has begun on a connection when this call has been answered well. Once it has,
// calls of it have nothing left to change in the SDK's session.
func (m *envelope) begins() era {
	switch {
	case m.version == stateless:
		return withoutSessions
	case m.method == initialize && plainEra(m.params):
		return ofSessions
	}
	return 0
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
// act on: a strange era, answers to what was asked before, a number that it cannot hold. of is the era
// that they are of; 0: they are not so plain.
func plainCall(params json.RawMessage) (tool string, arguments json.RawMessage, of era) {
	if params == nil {
		return "", nil, 0
	}
	of = ofSessions
	plain := true
	members(params, func(name string, value json.RawMessage) {
		switch name {
		case "name":
			plain = plain && json.Unmarshal(value, &tool) == nil
		case "arguments":
			arguments = value
		case "_meta":
			if value[0] != '{' {
				plain = false
				return
			}
			of = plainMeta(value)
		default:
			plain = false
		}
	})
	if !plain {
		of = 0
	}
	return tool, arguments, of
}

func plainMeta(meta json.RawMessage) (of era) {
	of = ofSessions
	plain, able := true, false
	members(meta, func(name string, value json.RawMessage) {
		switch name {
		case "progressToken":
		case mcp.MetaKeyProtocolVersion:
			of = withoutSessions
			plain = plain && string(value) == `"`+stateless+`"`
		case mcp.MetaKeyClientCapabilities:
			able = true
			plain = plain && value[0] == '{' && json.Unmarshal(value, &mcp.ClientCapabilities{}) == nil
		case mcp.MetaKeyClientInfo:
			plain = plain && value[0] == '{' && json.Unmarshal(value, &mcp.Implementation{}) == nil
		default:
			plain = plain && value[0] == '"'
		}
	})
	if !plain || able != (of == withoutSessions) {
		return 0
	}
	return of
}
