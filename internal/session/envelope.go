package session

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
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

	declares bool // what the client can do, with the version
}

// isCall says whether a message is to be answered.
func (m *envelope) isCall() bool { return m.method != "" && m.id.IsValid() }

// method is one that calls have.
type method struct {
	wants bool // it is nothing without parameters
	era   era
	name  string // of the parameter that HTTP repeats in a header; "": none
}

// era is when a method is there.
type era int

const (
	everyEra era = iota
	ofSessions
	withoutSessions
)

// methods are all that there are: what this server does not have, the SDK refuses.
var methods = map[string]method{
	initialize:                 {wants: true, era: ofSessions},
	ping:                       {era: ofSessions},
	"server/discover":          {era: withoutSessions},
	listen:                     {wants: true, era: withoutSessions},
	"tools/list":               {},
	callTool:                   {wants: true, name: "name"},
	"prompts/list":             {},
	getPrompt:                  {wants: true, name: "name"},
	"resources/list":           {},
	"resources/templates/list": {},
	"resources/read":           {wants: true, name: "uri"},
	"resources/subscribe":      {wants: true, era: ofSessions},
	"resources/unsubscribe":    {wants: true, era: ofSessions},
	"logging/setLevel":         {wants: true, era: ofSessions},
	complete:                   {wants: true},
	getTask:                    {wants: true, era: withoutSessions, name: "taskId"},
	updateTask:                 {wants: true, era: withoutSessions, name: "taskId"},
	cancelTask:                 {wants: true, era: withoutSessions, name: "taskId"},
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

// refusal is what is wrong with a call, whoever it is for; nil: nothing.
func (m *envelope) refusal() *fault {
	known, is := methods[m.method]
	modern := m.version >= stateless
	switch {
	case m.version != "" && !slices.Contains(Versions(), m.version):
		f := unsupported(m.id, m.version)
		return &f
	case !is, modern && known.era == ofSessions, !modern && known.era == withoutSessions:
		return &fault{m.id, jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "there is no such method" + ofEra(known.era)}}
	case known.wants && m.params == nil:
		return &fault{m.id, jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: `"params" is missing`}}
	case modern && !m.declares:
		return &fault{m.id, jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("%q is missing in _meta: an object, which may be empty", mcp.MetaKeyClientCapabilities)}}
	case m.method == listen && m.listensToTasks():
		return &fault{m.id, *ErrNeedsTasks}
	}
	return nil
}

func ofEra(e era) string {
	switch e {
	case ofSessions:
		return ": it is of sessions, which begin with " + initialize
	case withoutSessions:
		return " in a session: it is of " + stateless + ", as which a request declares itself in its _meta"
	}
	return ""
}

// listensToTasks says whether a subscription is to tasks, by a client that does not take them.
func (m *envelope) listensToTasks() bool {
	var p struct {
		Meta          map[string]any `json:"_meta"`
		Notifications struct {
			TaskIDs json.RawMessage `json:"taskIds"`
		} `json:"notifications"`
	}
	return json.Unmarshal(m.params, &p) == nil && p.Notifications.TaskIDs != nil && !takesTasks(p.Meta)
}

// maxAbout bounds what the SDK makes a tree of, in bytes: the parameters of initialize, prompts and completions, each
// _meta, and answers that a call brings. The tree takes up to eighty times as much memory, and that of the first is kept.
const maxAbout = 32 << 10

// inside looks for what a connection has to know of a request's parameters.
func (m *envelope) inside() (wrong string) {
	var meta, answers, token json.RawMessage
	if m.params != nil && !members(m.params, func(name string, value json.RawMessage) {
		switch name {
		case "_meta":
			meta = value
		case "inputResponses":
			answers = value
		}
	}) {
		return `"params" has each of its names once`
	}
	switch {
	case len(m.params) <= maxAbout:
	case m.method == initialize:
		return fmt.Sprintf("what a client says of itself has at most %d bytes", maxAbout)
	case m.method == getPrompt, m.method == complete:
		return fmt.Sprintf(`"params" of %s has at most %d bytes`, m.method, maxAbout)
	case len(answers) > maxAbout && m.method != updateTask: // which are not taken apart
		return fmt.Sprintf(`"inputResponses" has at most %d bytes`, maxAbout)
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
			_ = json.Unmarshal(value, &m.version) // what is no string is no version
		case mcp.MetaKeyClientCapabilities:
			m.declares = value[0] == '{'
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
