package store

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhatAJobCountsForIsAddedOnceAndOutlivesIt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, id := range []string{"a", "b", "c"} {
		j := create(t, s, id, 1000)
		j.Counts = []Count{{"scan", "15", 1}, {"scan", "sum", 9000}, {"cut", "", 0}, {"output", "", 1 << 62}}
		finish(t, s, j, Completed)
		finish(t, s, j, Completed) // the launcher tells an end until it is acknowledged
	}
	if err := s.Add(ctx, []Total{{"calls", "nmap_scan", "answered", 2}, {"sessions", "", "", 1}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(ctx, []Total{{"sessions", "", "", 4}}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Prune(ctx, Limits{Jobs: 1, Bytes: 1 << 30, Age: time.Hour}, time.Now()); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	create(t, s, "under-way", 1000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	got, err := s.Totals(ctx)
	want := []Total{{"calls", "nmap_scan", "answered", 2}, {"output", "nmap_scan", "", 3 * maxCount}, {"scan", "nmap_scan", "15", 3}, {"scan", "nmap_scan", "sum", 27000}, {"sessions", "", "", 5}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if ended, unfinished, err := s.Kept(ctx); err != nil || ended != 1 || unfinished != 1 {
		t.Errorf("%d have ended and %d have not, %v", ended, unfinished, err)
	}
}

// A job that cannot be counted whole has not ended: nothing of it is in any total.
func TestWhatIsTooMuchIsNotCountedInPart(t *testing.T) {
	s := open(t, t.TempDir())
	for what, counts := range map[string][]Count{
		"a long word":     {{"scan", "15", 1}, {"scan", strings.Repeat("x", maxWord+1), 1}},
		"too many counts": make([]Count, MaxCounts+1),
	} {
		j := create(t, s, strings.ReplaceAll(what, " ", "-"), 1000)
		j.State, j.Ended, j.Counts = Completed, time.Now(), counts
		if err := s.Update(ctx, j); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Add(ctx, []Total{{"calls", "", "", 1}, {"calls", strings.Repeat("x", maxWord+1), "", 1}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	totals, err := s.Totals(ctx)
	ends, err2 := s.Ends(ctx)
	if len(totals)+len(ends) > 0 || err != nil || err2 != nil {
		t.Errorf("%v, %v, %v, %v", totals, ends, err, err2)
	}
}
