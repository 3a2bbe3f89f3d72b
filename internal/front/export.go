package front

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/export"
	"github.com/secmcpd/secmcpd/internal/store"
)

// exportForm is the URI of a result in one of its forms, and of a part of it.
var exportForm = regexp.MustCompile(`^secmcpd://jobs/([a-z2-7]{26})/([a-z]{1,8}\.[a-z]{1,8})(?:\?from=(0|[1-9][0-9]{0,11}))?$`)

// exports are the forms of a finished job's result as resources.
func exports(row store.Job) (all []*mcp.Resource) {
	for _, f := range export.Of(row.Tool) {
		all = append(all, &mcp.Resource{URI: jobsURI + row.ID + "/" + f.Name, Name: f.Name + " of job " + row.ID,
			Title: row.Tool + ", " + row.Profile + ", " + string(row.State) + ": " + f.Name, MIMEType: f.MIME, Description: f.About})
	}
	return all
}

// exported reads a result in one of its forms, at most [maxResource] bytes at once. Where there is more, a second
// content names the part that follows. A result never changes, so parts fit together.
func (f *front) exported(ctx context.Context, uri string) (*mcp.ReadResourceResult, error) {
	m := exportForm.FindStringSubmatch(uri)
	if m == nil {
		return nil, mcp.ResourceNotFoundError(uri)
	}
	s := sessionOf(ctx)
	select { // one at a time: each may be large
	case f.exporting <- struct{}{}:
		defer func() { <-f.exporting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	row, err := f.store.Get(ctx, s.client.UID, m[1])
	if errors.Is(err, store.ErrNotFound) {
		return nil, mcp.ResourceNotFoundError(uri)
	}
	forms := export.Of(row.Tool)
	form := slices.IndexFunc(forms, func(f export.Format) bool { return f.Name == m[2] })
	switch {
	case err != nil:
		return nil, unreadableArtefact
	case form < 0:
		return nil, mcp.ResourceNotFoundError(uri)
	case !row.State.Finished():
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "the job has not ended: job_status tells when it has"}
	}
	from, _ := strconv.ParseInt(m[3], 10, 64) // digits that fit, says the form; none are 0
	w, err := f.render(row, forms[form], from)
	if err != nil {
		f.log.Error("cannot write a result", "job", row.ID, "form", forms[form].Word, "why", fmt.Sprintf("%T", err)) // the text may quote a host
		return nil, unreadableArtefact
	}
	if from > 0 && from >= w.total {
		return nil, mcp.ResourceNotFoundError(uri)
	}
	text, next := w.part()
	contents := []*mcp.ResourceContents{{URI: uri, MIMEType: forms[form].MIME, Text: text}}
	if next > 0 {
		contents = append(contents, &mcp.ResourceContents{URI: jobsURI + row.ID + "/" + forms[form].Name + "?from=" + strconv.FormatInt(next, 10), MIMEType: "text/plain",
			Text: fmt.Sprintf("[cut: %d of %d bytes until here; this URI has what follows, and `secmcpd report %s --format %s` writes all]", next, w.total, row.ID, forms[form].Word)})
	}
	return &mcp.ReadResourceResult{Contents: contents}, nil
}

var unreadableArtefact = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the artefact cannot be read"}

// render writes a finished job in a form and keeps the part from a byte on.
func (f *front) render(row store.Job, form export.Format, from int64) (*window, error) {
	a, err := f.finished(row, query{Limit: 1 << 30, Room: 1 << 60})
	if err != nil {
		return nil, err
	}
	hosts := a.Hosts
	a.Hosts, a.Page, a.Arguments, a.Shortened = nil, nil, row.Arguments, nil
	scan, err := export.Read(encode(a), hosts)
	if err != nil {
		return nil, err
	}
	w := &window{from: from}
	return w, form.Write(w, scan)
}

// window keeps what is written to it from a byte on, at most [maxResource] bytes, and counts the rest.
type window struct {
	from, total int64
	kept        []byte
}

func (w *window) Write(b []byte) (int, error) {
	low, high := max(w.from-w.total, 0), min(w.from+maxResource-w.total, int64(len(b)))
	if low < high {
		w.kept = append(w.kept, b[low:high]...)
	}
	w.total += int64(len(b))
	return len(b), nil
}

// part is what was kept, up to a whole character, and where the following part begins; 0: there is none.
func (w *window) part() (text string, next int64) {
	end := w.from + int64(len(w.kept))
	if end >= w.total {
		return string(w.kept), 0
	}
	kept := w.kept
	for i := 1; i < utf8.UTFMax && i < len(kept); i++ {
		if at := len(kept) - i; utf8.RuneStart(kept[at]) {
			if !utf8.FullRune(kept[at:]) {
				kept = kept[:at]
			}
			break
		}
	}
	return string(kept), w.from + int64(len(kept))
}
