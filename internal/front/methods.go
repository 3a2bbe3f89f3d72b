package front

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// around is what this server does otherwise than the SDK: the list of resources is the caller's
// own, where the SDK has one for all; an unknown tool or prompt is answered with the nearest, and a
// cursor into a list that has one page with how to begin.
func (f *front) around(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		switch r := r.(type) {
		case *mcp.CallToolRequest:
			if name, known := r.Params.Name, *f.names.Load(); !slices.Contains(known, name) {
				return nil, unknown("tool", name, known)
			}
			// A client of an earlier era is asked within its call, and may never answer.
			term, stop := context.WithTimeout(ctx, f.term)
			defer stop()
			answer, err := next(term, method, r)
			if err != nil && ctx.Err() == nil && (term.Err() != nil || strings.HasPrefix(err.Error(), unasked)) {
				return result(nil, refused{Refusal: notConfirmed("the client did not answer what its user was asked")})
			}
			return answer, err
		case *mcp.GetPromptRequest:
			if name := r.Params.Name; !slices.Contains(promptNames, name) {
				return nil, unknown("prompt", name, promptNames)
			}
		case *mcp.ListToolsRequest:
			if r.Params != nil && r.Params.Cursor != "" {
				return nil, errNoCursor
			}
		case *mcp.ListPromptsRequest:
			if r.Params != nil && r.Params.Cursor != "" {
				return nil, errNoCursor
			}
		case *mcp.ListResourceTemplatesRequest:
			if r.Params != nil && r.Params.Cursor != "" {
				return nil, errNoCursor
			}
		case *mcp.ListResourcesRequest:
			return f.listResources(ctx, r, next)
		}
		return next(ctx, method, r)
	}
}

// unasked begins the SDK's errors about a client of an earlier era that did not answer, or otherwise than it
// was asked. What follows is the client's.
const unasked = "multi-round-trip: "

var errNoCursor = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "no such cursor: leave it out to begin with the first page"}

func unknown(what, name string, known []string) error {
	hint := "the " + what + "s are " + strings.Join(known, ", ")
	if near := strict.Nearest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("unknown %s %q: %s", what, clip(name), hint)}
}
