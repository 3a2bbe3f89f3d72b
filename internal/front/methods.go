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
// own, where the SDK has one for all, and an unknown tool is answered with the nearest.
func (f *front) around(next mcp.MethodHandler) mcp.MethodHandler {
	var known []string
	for _, t := range tools(f.cfg.Tools) {
		known = append(known, t.name)
	}
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		switch r := r.(type) {
		case *mcp.CallToolRequest:
			if name := r.Params.Name; !slices.Contains(known, name) {
				return nil, unknownTool(name, known)
			}
		case *mcp.ListResourcesRequest:
			return f.listResources(ctx, r, next)
		}
		return next(ctx, method, r)
	}
}

func unknownTool(name string, known []string) error {
	hint := "the tools are " + strings.Join(known, ", ")
	if near := strict.Nearest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("unknown tool %q: %s", clip(name), hint)}
}
