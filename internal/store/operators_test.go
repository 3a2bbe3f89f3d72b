package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Operators list the jobs of all users, page by page, and read any.
func TestTheJobsOfAllUsers(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	for i := range 5 {
		j := Job{ID: fmt.Sprintf("job%d", i), UID: uint32(1000 + i%2), Tool: "nmap_scan", Created: time.Unix(int64(i), 0), Arguments: []byte(`{}`)}
		if err := s.Create(ctx, j); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			break // still queued
		}
		j.State, j.Reason, j.Ended, j.Result = Completed, "exited", time.Unix(int64(100-i), 0), []byte(`{"hosts":[]}`)
		if err := s.Update(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(jobs []Job) (out string) {
		for _, j := range jobs {
			out += j.ID[3:]
		}
		return out
	}
	one := uint32(1001)
	for _, c := range []struct {
		says  string
		whose Whose
		f     Filter
		want  string
		more  bool
	}{
		{"all", nil, Filter{Limit: 10}, "43210", false},
		{"a page", nil, Filter{Limit: 2}, "43", true},
		{"the next", nil, Filter{Limit: 2, Before: "job3"}, "21", true},
		{"the last", nil, Filter{Limit: 2, Before: "job1"}, "0", false},
		{"of one user", &one, Filter{Limit: 10}, "31", false},
		{"in one state", nil, Filter{Limit: 10, State: Queued}, "4", false},
		{"of another tool", nil, Filter{Limit: 10, Tool: "masscan_scan"}, "", false},
	} {
		jobs, next, err := s.ListAll(ctx, c.whose, c.f)
		if err != nil || ids(jobs) != c.want || (next != "") != c.more {
			t.Errorf("%s: %s %q %v", c.says, ids(jobs), next, err)
		}
	}
	if _, _, err := s.ListAll(ctx, nil, Filter{Limit: 10, Before: "nothing"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("before a job that is not there: %v", err)
	}
	if _, _, err := s.ListAll(ctx, nil, Filter{Limit: 101}); err == nil {
		t.Error("101 jobs on a page")
	}
	if jobs, err := s.Ended(ctx, 3); err != nil || ids(jobs) != "012" {
		t.Errorf("ended last: %s, %v", ids(jobs), err)
	}
	if j, err := s.Of(ctx, "job2"); err != nil || j.UID != 1000 || string(j.Result) != `{"hosts":[]}` {
		t.Errorf("%+v, %v", j, err)
	}
	if _, err := s.Of(ctx, "nothing"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
