package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// hoursFile is when an engagement may be used, as it is written.
type hoursFile struct {
	// Days are those on which a window begins; all, if left out.
	Days []day `yaml:"days"`
	// From and To are times of day. With To before From the window ends on the next day, so
	// that [fri] from 22:00 to 06:00 ends on Saturday morning.
	From clock `yaml:"from"`
	To   clock `yaml:"to"`
	// Timezone is of the IANA data base: summer time is counted.
	Timezone zone `yaml:"timezone"`
}

// hours is a window that begins on some days of the week.
type hours struct {
	days     [7]bool
	from, to int // minutes after midnight; to may be past 24 hours
	zone     *time.Location
	text     string
}

// window is one occurrence, without its last instant.
type window struct{ from, to time.Time }

// on is the window that begins on the day which is n days after that of now.
func (h *hours) on(now time.Time, n int) (window, bool) {
	year, month, date := now.In(h.zone).Date()
	// Noon exists on every day; midnight does not everywhere.
	if !h.days[time.Date(year, month, date+n, 12, 0, 0, 0, h.zone).Weekday()] {
		return window{}, false
	}
	at := func(minutes int) time.Time { return time.Date(year, month, date+n, 0, minutes, 0, 0, h.zone) }
	return window{at(h.from), at(h.to)}, true
}

// until is the end of the time that is open now; ok is false when none is. Windows that touch
// are one, for as long as a week.
func (h *hours) until(now time.Time) (end time.Time, ok bool) {
	for n := -1; n <= 7; n++ {
		w, begins := h.on(now, n)
		if !begins {
			continue
		}
		if !ok && !now.Before(w.from) && now.Before(w.to) || ok && !w.from.After(end) && w.to.After(end) {
			end, ok = w.to, true
		}
	}
	return end, ok
}

// next is when it opens next; ok is false if not within a week, as can be when a change of the
// clocks swallows a window.
func (h *hours) next(now time.Time) (time.Time, bool) {
	for n := 0; n <= 8; n++ {
		if w, begins := h.on(now, n); begins && w.from.After(now) && w.to.After(w.from) {
			return w.from, true
		}
	}
	return time.Time{}, false
}

func (c *compiler) readHours(f *hoursFile) *hours {
	if f == nil || c.Bad("hours") {
		return nil
	}
	c.missing("hours.from", f.From.text == "", clockForm)
	c.missing("hours.to", f.To.text == "", clockForm)
	c.missing("hours.timezone", f.Timezone.Location == nil, zoneForm)
	c.missing("hours.days", c.Has("hours.days") && len(f.Days) == 0, dayForm)
	h := &hours{from: f.From.minutes, to: f.To.minutes, zone: f.Timezone.Location}
	bad := c.Bad("hours.from") || c.Bad("hours.to")
	if f.From.minutes == 24*60 && !bad {
		c.wrong("hours.from", strict.Quote(f.From.text), "00:00 to 23:59", "")
	}
	if f.From.text != "" && h.from == h.to && !bad {
		c.wrong("hours.to", strict.Quote(f.To.text), "another time than from", "from 00:00 to 24:00 is the whole day")
	}
	if h.to < h.from {
		h.to += 24 * 60
	}
	for i, d := range f.Days {
		if path := strict.Index("hours.days", i); d.known && h.days[d.Weekday] && !c.Bad(path) {
			c.wrong(path, "the day again", "each day once", "")
		}
		h.days[d.Weekday] = h.days[d.Weekday] || d.known
	}
	if len(f.Days) == 0 {
		h.days = [7]bool{true, true, true, true, true, true, true}
	}
	h.text = h.describe(f)
	return h
}

func (h *hours) describe(f *hoursFile) string {
	days := "every day"
	if !slices.Equal(h.days[:], []bool{true, true, true, true, true, true, true}) {
		var on []string
		for _, d := range week {
			if h.days[d.Weekday] {
				on = append(on, d.name)
			}
		}
		days = strings.Join(on, " ")
	}
	zone := "?"
	if h.zone != nil {
		zone = h.zone.String()
	}
	return fmt.Sprintf("%s %s-%s %s", days, f.From.text, f.To.text, zone)
}

// day is a day of the week.
type day struct {
	time.Weekday
	name  string
	known bool
}

var week = []day{
	{time.Monday, "mon", true}, {time.Tuesday, "tue", true}, {time.Wednesday, "wed", true}, {time.Thursday, "thu", true},
	{time.Friday, "fri", true}, {time.Saturday, "sat", true}, {time.Sunday, "sun", true},
}

const dayForm = "mon, tue, wed, thu, fri, sat, sun"

func (d *day) ReadScalar(text string) *strict.Fault {
	i := slices.IndexFunc(week, func(d day) bool { return d.name == text })
	if i < 0 {
		return &strict.Fault{Allowed: dayForm}
	}
	*d = week[i]
	return nil
}

// clock is a time of day.
type clock struct {
	minutes int
	text    string
}

const clockForm = `a time of day such as "08:30", from 00:00 to 24:00`

var clockText = regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])$|^(24):(00)$`)

func (c *clock) ReadScalar(text string) *strict.Fault {
	m := clockText.FindStringSubmatch(text)
	if m == nil {
		return &strict.Fault{Allowed: clockForm}
	}
	hour, _ := strconv.Atoi(m[1] + m[3])
	minute, _ := strconv.Atoi(m[2] + m[4])
	*c = clock{hour*60 + minute, text}
	return nil
}

// zone is a time zone.
type zone struct{ *time.Location }

const zoneForm = "a time zone such as Europe/Berlin, or UTC"

// zoneText leaves out Local and the like, which mean another time on another machine, and
// posix/ and right/, which are not zones.
var zoneText = regexp.MustCompile(`^(UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+){1,2})$`)

func (z *zone) ReadScalar(text string) *strict.Fault {
	if !zoneText.MatchString(text) {
		return &strict.Fault{Allowed: zoneForm}
	}
	location, err := time.LoadLocation(text)
	if err != nil {
		return &strict.Fault{Allowed: zoneForm, Hint: "this machine knows no such zone"}
	}
	z.Location = location
	return nil
}

// expiry is the end of an engagement.
type expiry struct {
	at     time.Time
	isDate bool
}

func (e *expiry) ReadScalar(text string) *strict.Fault {
	if at, err := time.Parse(time.DateOnly, text); err == nil {
		*e = expiry{at, true}
		return nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return &strict.Fault{Allowed: `the last day, such as 2027-03-31, or a moment such as 2027-03-31T18:00:00Z`}
	}
	*e = expiry{at: at}
	return nil
}

// end is the first instant that is too late.
func (e expiry) end(h *hours) time.Time {
	if !e.isDate {
		return e.at
	}
	zone := time.UTC
	if h != nil && h.zone != nil {
		zone = h.zone
	}
	year, month, date := e.at.Date()
	return time.Date(year, month, date+1, 0, 0, 0, 0, zone)
}
