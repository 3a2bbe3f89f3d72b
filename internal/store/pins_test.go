package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestAPinNamesOneJobOfOneUser(t *testing.T) {
	s := open(t, t.TempDir())
	for _, id := range []string{"a", "b", "c"} {
		finish(t, s, create(t, s, id, 1), Completed)
	}
	finish(t, s, create(t, s, "other", 2), Completed)
	create(t, s, "waits", 1)
	pins := func() (out string) {
		jobs, _, err := s.List(ctx, 1, Filter{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			if j.Pinned != "" {
				out += j.ID + "=" + j.Pinned + " "
			}
		}
		return strings.TrimSpace(out)
	}
	for _, step := range []struct {
		says string
		do   func() error
		want error
		pins string
	}{
		{"a job is pinned", func() error { return s.Pin(ctx, 1, "a", "monday") }, nil, "a=monday"},
		{"again, which changes nothing", func() error { return s.Pin(ctx, 1, "a", "monday") }, nil, "a=monday"},
		{"a name goes over to another job", func() error { return s.Pin(ctx, 1, "b", "monday") }, nil, "b=monday"},
		{"a job has one name", func() error { return s.Pin(ctx, 1, "b", "base") }, nil, "b=base"},
		{"two jobs with two names", func() error { return s.Pin(ctx, 1, "c", "monday") }, nil, "c=monday b=base"},
		{"another user's job is none", func() error { return s.Pin(ctx, 1, "other", "theirs") }, ErrNotFound, "c=monday b=base"},
		{"nor is one that is not there", func() error { return s.Pin(ctx, 1, "nothing", "none") }, ErrNotFound, "c=monday b=base"},
		{"a job that is under way is not pinned", func() error { return s.Pin(ctx, 1, "waits", "early") }, ErrUnfinished, "c=monday b=base"},
		{"another user's name is theirs", func() error { return s.Unpin(ctx, 2, "base") }, ErrNotFound, "c=monday b=base"},
		{"no name names no job", func() error { return s.Unpin(ctx, 1, "") }, ErrNotFound, "c=monday b=base"},
		{"a name is taken away", func() error { return s.Unpin(ctx, 1, "base") }, nil, "c=monday"},
		{"and is gone", func() error { return s.Unpin(ctx, 1, "base") }, ErrNotFound, "c=monday"},
	} {
		if err := step.do(); !errors.Is(err, step.want) || pins() != step.pins {
			t.Errorf("%s: %v; pinned: %s", step.says, err, pins())
		}
	}
	if all, err := s.Pins(ctx, 1); err != nil || len(all) != 1 || all["monday"] != "c" {
		t.Errorf("%v, %v", all, err)
	}
	if j, err := s.Baseline(ctx, 1, "monday"); err != nil || j.ID != "c" || len(j.Result) == 0 {
		t.Errorf("%+v, %v", j, err)
	}
	for _, name := range []string{"", "base"} {
		if _, err := s.Baseline(ctx, 1, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := s.Baseline(ctx, 2, "monday"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another user's: %v", err)
	}
}

func TestPinsAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range maxPins + 1 {
		id := fmt.Sprintf("j%d", i)
		finish(t, s, create(t, s, id, 1), Completed)
		var want error
		if i == maxPins {
			want = ErrTooManyPins
		}
		if err := s.Pin(ctx, 1, id, "p-"+id); !errors.Is(err, want) {
			t.Fatalf("%s: %v", id, err)
		}
	}
	if err := s.Pin(ctx, 1, "j0", "p-j1"); err != nil {
		t.Errorf("a name that is taken over is none more: %v", err)
	}
	for _, name := range []string{"", "-a", "A", "a b", "a/b", strings.Repeat("a", 33)} {
		if s.Pin(ctx, 1, "j0", name) == nil {
			t.Errorf("%q is no name", name)
		}
	}
}
