package session

import (
	"context"
	"encoding/json"
	"maps"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// TasksExtension is the name of the extension, for a server's capabilities. With it a call may be
// answered with a task, which its client asks about until it is over:
//
//	tools/call ──► handler: GiveTask ──► the answer is the task
//	tasks/get, tasks/update, tasks/cancel ──► Tasks
const TasksExtension = "io.modelcontextprotocol/tasks"

const (
	getTask    = "tasks/get"
	updateTask = "tasks/update"
	cancelTask = "tasks/cancel"
)

// The states of a task.
const (
	Working       = "working"
	InputRequired = "input_required"
	Completed     = "completed" // there is a result, which may be an error of the tool's
	TaskFailed    = "failed"    // there is none: the call itself failed
	TaskCancelled = "cancelled"
)

// Task is work that a call has begun and that goes on without it.
type Task struct {
	ID      string              `json:"taskId"`
	Status  string              `json:"status"`
	Message string              `json:"statusMessage,omitempty"` // for people, in words of ours
	Created time.Time           `json:"createdAt"`
	Updated time.Time           `json:"lastUpdatedAt"`
	TTL     *int64              `json:"ttlMs"` // from its creation, in milliseconds; nil: without end
	Poll    int64               `json:"pollIntervalMs,omitempty"`
	Result  *mcp.CallToolResult `json:"result,omitempty"`        // when completed
	Error   *jsonrpc.Error      `json:"error,omitempty"`         // when failed
	Asks    mcp.InputRequestMap `json:"inputRequests,omitempty"` // when input is required
}

// Tasks is what is done about tasks. The contexts have the values of the connection that asks; a task
// that is not the asking user's does not exist. taskID is what the client wrote, and not judged yet. An
// error that is a *jsonrpc.Error is told, as everywhere.
type Tasks struct {
	Get    func(ctx context.Context, taskID json.RawMessage) (*Task, error)
	Update func(ctx context.Context, taskID, answers json.RawMessage) error
	Cancel func(ctx context.Context, taskID json.RawMessage) error
}

// AddTasks adds the extension's methods to a server, and tasks to what its calls may be answered with.
func AddTasks(server *mcp.Server, t Tasks) error {
	acknowledged := func(do func(ctx context.Context, p *taskParams) error) func(context.Context, *taskParams) (*taskResult, error) {
		return func(ctx context.Context, p *taskParams) (*taskResult, error) {
			return &taskResult{ResultType: "complete"}, do(ctx, p)
		}
	}
	for method, do := range map[string]func(context.Context, *taskParams) (*taskResult, error){
		getTask: func(ctx context.Context, p *taskParams) (*taskResult, error) {
			task, err := t.Get(ctx, p.TaskID)
			return &taskResult{ResultType: "complete", Task: task}, err
		},
		updateTask: acknowledged(func(ctx context.Context, p *taskParams) error { return t.Update(ctx, p.TaskID, p.Answers) }),
		cancelTask: acknowledged(func(ctx context.Context, p *taskParams) error { return t.Cancel(ctx, p.TaskID) }),
	} {
		if err := mcp.AddReceivingCustomMethod(server, method, func(ctx context.Context, _ *mcp.ServerSession, p *taskParams) (*taskResult, error) {
			if p == nil || !takesTasks(p.GetMeta()) {
				return nil, ErrNeedsTasks
			}
			return do(ctx, p)
		}); err != nil {
			return err
		}
	}
	server.AddReceivingMiddleware(giveTasks)
	return nil
}

// taskParams are the parameters of the extension's methods. What there is of answers is decoded by
// whoever has asked for something.
type taskParams struct {
	mcp.ParamsBase
	TaskID  json.RawMessage `json:"taskId"`
	Answers json.RawMessage `json:"inputResponses"`
}

type taskResult struct {
	mcp.ResultBase
	ResultType string `json:"resultType"`
	*Task
}

// ErrNeedsTasks refuses a client that has not said that it takes tasks.
var ErrNeedsTasks = &jsonrpc.Error{Code: mcp.CodeMissingRequiredClientCapabilities, Message: "the client must declare " + TasksExtension + " in the capabilities of its request",
	Data: json.RawMessage(`{"requiredCapabilities":{"extensions":{"` + TasksExtension + `":{}}}}`)}

// takesTasks says whether a request declares the extension. It counts for that request alone, and
// sessions of the eras before have no word for it.
func takesTasks(meta map[string]any) bool {
	version, _ := meta[mcp.MetaKeyProtocolVersion].(string)
	capabilities, _ := meta[mcp.MetaKeyClientCapabilities].(map[string]any)
	extensions, _ := capabilities["extensions"].(map[string]any)
	_, declared := extensions[TasksExtension]
	return version >= stateless && declared
}

// offer is a call that may be answered with a task.
type offer struct{ task *Task }

type offerKey struct{}

// TakesTask says whether the client of a call takes a task for an answer.
func TakesTask(ctx context.Context) bool { return ctx.Value(offerKey{}) != nil }

// GiveTask answers a call with a task in place of whatever its handler returns, unless that is an
// error. The client must be one that takes it, and Tasks.Get must know it from now on.
func GiveTask(ctx context.Context, t Task) { ctx.Value(offerKey{}).(*offer).task = &t }

// giveTasks is the middleware that puts tasks in the place of results.
func giveTasks(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		if call, is := r.(*mcp.CallToolRequest); is && takesTasks(call.Params.GetMeta()) {
			o := &offer{}
			result, err := next(context.WithValue(ctx, offerKey{}, o), method, r)
			if err == nil && o.task != nil {
				return created(*o.task), nil
			}
			return result, err
		}
		result, err := next(ctx, method, r)
		if begun, is := result.(*mcp.InitializeResult); err == nil && is && begun.Capabilities != nil {
			c := *begun.Capabilities // sessions have no such extension
			c.Extensions = maps.Clone(c.Extensions)
			delete(c.Extensions, TasksExtension)
			begun.Capabilities = &c
		}
		return result, err
	}
}

// created is the answer to a call that has become a task: what the task comes to is asked for.
func created(t Task) *taskResult {
	t.Result, t.Error, t.Asks = nil, nil, nil
	return &taskResult{ResultType: "task", Task: &t}
}
