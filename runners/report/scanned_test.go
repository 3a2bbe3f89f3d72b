package report

import (
	"fmt"
	"testing"
)

func TestPortsThatTheScannerSaysItScans(t *testing.T) {
	for _, c := range []struct {
		says, list string
		count      int
		want       string
	}{
		{"one", "22", 1, "[[22 22]]"},
		{"several and ranges", "21-23,80,110-111", 6, "[[21 23] [80 80] [110 111]]"},
		{"all", "1-65535", 65535, "[[1 65535]]"},
		{"none", "", 0, "[]"},
		{"a list that was cut", "21-23,80,11", 6, "[]"},
		{"a number that is no port", "70000", 1, "[]"},
		{"ends the wrong way round", "23-21", 3, "[]"},
		{"out of order, or twice", "80,22,80", 3, "[]"},
		{"words", "ssh,http", 2, "[]"},
	} {
		if got := fmt.Sprint(scanned(c.list, c.count)); got != c.want {
			t.Errorf("%s: %s", c.says, got)
		}
	}
}
