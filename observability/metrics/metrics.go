// Package metrics is what the front counts, in the words of Prometheus.
//
// Totals are read from where jobs are kept, when somebody asks: they outlive the front, and one
// that is killed has counted each job once.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Ended is how many jobs of a tool have ended in one way. Its words come from short lists of our
// own: none is a caller's or a target's.
type Ended struct {
	Tool, State, Reason string
	Jobs                int64
}

// Packets is how many packets of a tool's jobs that have ended had one fate, of a short list.
type Packets struct {
	Tool, Fate string
	Packets    int64
}

// Source says what there is to count.
type Source struct {
	Version  string
	Ended    func() ([]Ended, error)
	Packets  func() ([]Packets, error)
	UnderWay func() (queued, running int)
	Budget   func() (allowed, reserved int) // packets a second of all jobs that run
	Space    func() (kept, allowed, free, reserved int64, err error)
}

var (
	up       = prometheus.NewDesc("secmcpd_up", "1 while the front runs; 0 is the last thing that it writes.", nil, nil)
	build    = prometheus.NewDesc("secmcpd_build_info", "Always 1; the version is the label.", []string{"version"}, nil)
	ended    = prometheus.NewDesc("secmcpd_jobs_ended_total", "Jobs that have ended, by tool, by how the job ended (state), and by what ended its scanner (reason): exited by itself, or one of its limits.", []string{"tool", "state", "reason"}, nil)
	packets  = prometheus.NewDesc("secmcpd_packets_total", "Packets of jobs that have ended, by tool and by what the kernel's filter did with them (fate): sent and received passed; off_scope, form and over_rate were dropped on the way out, refused on the way in.", []string{"tool", "fate"}, nil)
	budget   = prometheus.NewDesc("secmcpd_budget_packets_per_second", "Packets per second of all jobs that run: allowed by the machine's budget, and reserved out of it.", []string{"share"}, nil)
	space    = prometheus.NewDesc("secmcpd_state_bytes", "Bytes where results are kept: kept of jobs that have ended and allowed for them, free on the disk and reserved of it; below that no new job is begun.", []string{"share"}, nil)
	underWay = prometheus.NewDesc("secmcpd_jobs", "Jobs under way, by state: queued or running.", []string{"state"}, nil)
)

// Registry is one of our own: a file for node_exporter must hold no family that it exports itself.
type Registry struct {
	*prometheus.Registry
	source  Source
	stopped bool
}

// New makes the registry of a front.
func New(s Source) *Registry {
	r := &Registry{Registry: prometheus.NewPedanticRegistry(), source: s}
	r.MustRegister(collector{r}) // fails for descriptions that contradict each other only
	return r
}

// WriteFile replaces the file at path, which has to end in .prom for node_exporter to read it. The
// file is whole at every moment and may be read by everybody.
func (r *Registry) WriteFile(path string) error { return prometheus.WriteToTextfile(path, r) }

// Stop makes the next file the last: nothing is up, nothing is under way.
func (r *Registry) Stop() { r.stopped = true }

type collector struct{ *Registry }

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{up, build, ended, packets, budget, space, underWay} {
		to <- d
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	var queued, running, allowed, reserved int
	alive := 0.0
	if !c.stopped {
		alive = 1
		queued, running = c.source.UnderWay()
		allowed, reserved = c.source.Budget()
	}
	gauge(up, alive)
	gauge(build, 1, c.source.Version)
	gauge(underWay, float64(queued), "queued")
	gauge(underWay, float64(running), "running")
	gauge(budget, float64(allowed), "allowed")
	gauge(budget, float64(reserved), "reserved")
	kept, most, free, least, err := c.source.Space()
	if err != nil {
		to <- prometheus.NewInvalidMetric(space, err)
		return
	}
	for share, bytes := range map[string]int64{"kept": kept, "allowed": most, "free": free, "reserved": least} {
		gauge(space, float64(bytes), share)
	}
	all, err := c.source.Ended()
	if err != nil {
		to <- prometheus.NewInvalidMetric(ended, err) // the whole file fails, and says why: no total is better than a wrong one
		return
	}
	for _, e := range all {
		to <- prometheus.MustNewConstMetric(ended, prometheus.CounterValue, float64(e.Jobs), e.Tool, e.State, e.Reason)
	}
	fates, err := c.source.Packets()
	if err != nil {
		to <- prometheus.NewInvalidMetric(packets, err)
		return
	}
	for _, p := range fates {
		to <- prometheus.MustNewConstMetric(packets, prometheus.CounterValue, float64(p.Packets), p.Tool, p.Fate)
	}
}
