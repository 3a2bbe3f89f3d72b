package sandbox

import (
	"testing"
)

func TestReport(t *testing.T) {
	t.Log(succeed(t, box, wish(t, "nmap-raw", probe, "nmap", "report")))
}
