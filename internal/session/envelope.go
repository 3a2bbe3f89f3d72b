package session

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// envelope is what a client sent, by its exact names, each at most once.
type envelope struct {
	id               jsonrpc.ID // not valid: none
	method           string     // "": an answer
	params           json.RawMessage
	result, rawError json.RawMessage

	token   jsonrpc.ID // of progress; not valid: none is wanted
	version string     // of the protocol, as a request of the eras without sessions names it
}

// parse reads a message. A fault is about the message's id, as far as that could be read.
func parse(text []byte) (m envelope, f *fault) {
	text = bytes.Trim(text, " \t\r\n")
	wrong := func(code int64, words string) (envelope, *fault) {
		return envelope{}, &fault{m.id, jsonrpc.Error{Code: code, Message: words}}
	}
	switch {
	case !utf8.Valid(text) || !json.Valid(text):
		return wrong(jsonrpc.CodeParseError, "a message is JSON in UTF-8")
	case text[0] == '[':
		return wrong(jsonrpc.CodeInvalidRequest, "batches are not taken; send each message by itself")
	case text[0] != '{':
		return wrong(jsonrpc.CodeInvalidRequest, "a message is a JSON object")
	}
	var version, id, method json.RawMessage
	if !members(text, func(name string, value json.RawMessage) {
		switch name {
		case "jsonrpc":
			version = value
		case "id":
			id = value
		case "method":
			method = value
		case "params":
			m.params = value
		case "result":
			m.result = value
		case "error":
			m.rawError = value
		}
	}) {
		return wrong(jsonrpc.CodeInvalidRequest, "a message has each of its names once")
	}
	if id != nil {
		if m.id = identifier(id); !m.id.IsValid() {
			return wrong(jsonrpc.CodeInvalidRequest, `"id" must be a string of at most 256 bytes, or a whole number of at most 2^53`)
		}
	}
	isAnswer := m.result != nil || m.rawError != nil
	switch {
	case string(version) != `"2.0"`:
		return wrong(jsonrpc.CodeInvalidRequest, `"jsonrpc" must be "2.0"`)
	case method == nil && isAnswer:
		return m, nil
	case method == nil:
		return wrong(jsonrpc.CodeInvalidRequest, `"method" is missing`)
	case method[0] != '"' || json.Unmarshal(method, &m.method) != nil || m.method == "":
		return wrong(jsonrpc.CodeInvalidRequest, `"method" must be a string`)
	case isAnswer:
		return wrong(jsonrpc.CodeInvalidRequest, "a message is a request or an answer, not both")
	case string(m.params) == "null":
		m.params = nil
	case m.params != nil && m.params[0] != '{':
		return wrong(jsonrpc.CodeInvalidRequest, `"params" must be an object`)
	}
	if words := m.inside(); words != "" {
		return wrong(jsonrpc.CodeInvalidParams, words)
	}
	return m, nil
}

// maxAbout bounds what the SDK makes a tree of, in bytes: the parameters of initialize, and each
// _meta. The tree takes up to eighty times as much memory, and that of the first is kept.
const maxAbout = 32 << 10

// inside looks for what a connection has to know of a request's parameters.
func (m *envelope) inside() (wrong string) {
	var meta, token json.RawMessage
	if m.params != nil && !members(m.params, func(name string, value json.RawMessage) {
		if name == "_meta" {
			meta = value
		}
	}) {
		return `"params" has each of its names once`
	}
	if m.method == initialize && len(m.params) > maxAbout {
		return fmt.Sprintf("what a client says of itself has at most %d bytes", maxAbout)
	}
	if meta == nil || meta[0] != '{' {
		return ""
	}
	if len(meta) > maxAbout {
		return fmt.Sprintf(`"_meta" has at most %d bytes`, maxAbout)
	}
	if !members(meta, func(name string, value json.RawMessage) {
		switch name {
		case "progressToken":
			token = value
		case mcp.MetaKeyProtocolVersion:
			_ = json.Unmarshal(value, &m.version) // the SDK refuses what is no string
		}
	}) {
		return `"_meta" has each of its names once`
	}
	if token == nil || string(token) == "null" {
		return ""
	}
	if m.token = identifier(token); !m.token.IsValid() {
		return `"progressToken" is a string of at most 256 bytes, or a whole number of at most 2^53`
	}
	return ""
}

const maxID = 256 // bytes

// identifier is an id, or the token of progress, that comes back as it was; not valid: it would
// not.
func identifier(raw json.RawMessage) jsonrpc.ID {
	var value any
	if raw[0] == '"' {
		var s string
		// What is no Unicode has become U+FFFD.
		if json.Unmarshal(raw, &s) != nil || len(s) > maxID || strings.ContainsRune(s, utf8.RuneError) {
			return jsonrpc.ID{}
		}
		value = s
	} else {
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || n > 1<<53 || n < -1<<53 {
			return jsonrpc.ID{}
		}
		value = float64(n)
	}
	id, err := jsonrpc.MakeID(value)
	if err != nil {
		return jsonrpc.ID{}
	}
	return id
}

// members visits the names and values of an object that is valid JSON; false: a name comes twice.
func members(object []byte, visit func(name string, value json.RawMessage)) (once bool) {
	once = true
	seen := map[string]bool{}
	for i := blank(object, 1); object[i] == '"'; {
		end := skip(object, i)
		name := string(object[i+1 : end-1])
		if strings.IndexByte(name, '\\') >= 0 {
			_ = json.Unmarshal(object[i:end], &name) // it is valid
		}
		i = blank(object, blank(object, end)+1)
		end = skip(object, i)
		visit(name, object[i:end:end])
		once = once && !seen[name]
		seen[name] = true
		if i = blank(object, end); object[i] == ',' {
			i = blank(object, i+1)
		}
	}
	return once
}

// blank is where the next thing begins.
func blank(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n' {
		i++
	}
	return i
}

// skip is where the value that begins at i ends.
func skip(b []byte, i int) int {
	depth := 0
	for {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\r', '\n':
			i++
		default: // a number or a word
			for i < len(b) && !strings.ContainsRune(",:]} \t\r\n", rune(b[i])) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}
