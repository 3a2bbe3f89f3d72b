package launcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// inTime refuses a job that cannot end within its time, before it waits for a place. Whatever else is wrong with its
// command is told when it is launched.
func (l *Launcher) inTime(ctx context.Context, j *job) *wire.Refusal {
	set := l.now()
	tool, err := l.scanners.get(ctx, set, set.Tools.ScannerOf(j.call.Tool))
	if err != nil {
		return nil
	}
	v := j.decided()
	wall, _ := deadline(v, j.plan.Limit, time.Now())
	_, _, err = l.commandFor(j.call, tool, v, wall)
	return l.tooLong(err, v)
}

// tooLong is the refusal of what cannot end in its time; nil: err is no such error. Of the changes that would do it
// names those that the engagement allows.
func (l *Launcher) tooLong(err error, v policy.Verdict) *wire.Refusal {
	var u *runners.Unfit
	if !errors.As(err, &u) {
		return nil
	}
	r := &wire.Refusal{Code: "cannot_finish", Field: u.Field, Got: seconds(u.Limit), Rule: v.Engagement + ": limits",
		Reason: fmt.Sprintf("the scan takes at least %s seconds, whatever the targets answer, and has %s: nothing was sent", seconds(u.Needs), seconds(u.Limit)),
		Hint:   "change any one of those; or split the scan"}
	most := l.grants(v.Engagement)
	for _, f := range u.Would {
		beyond := f.What == "rate" && f.Number > int64(most.Rate) || (f.What == "limit" || f.What == runners.BothTimes) && f.Number > int64(most.Duration/time.Second)
		if f.Most || !beyond {
			r.Allowed = append(r.Allowed, f.String())
		}
	}
	if len(r.Allowed) == 0 {
		r.Hint = "split the scan, or ask the operator for an engagement with a longer duration or a higher rate"
	}
	return r
}

// grants is the most that an engagement allows a job.
func (l *Launcher) grants(engagement string) policy.Limits {
	all := l.judged().Engagements
	i := slices.IndexFunc(all, func(e policy.Engagement) bool { return e.Name == engagement })
	if i < 0 {
		return policy.Limits{}
	}
	return all[i].Limits
}

// seconds is a time in whole seconds, none too few.
func seconds(d time.Duration) string { return fmt.Sprint(wholeSeconds(d)) }

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
