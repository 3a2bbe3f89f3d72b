package strict

import (
	"regexp"
	"strconv"
)

// Lines knows where each value of a decoded file stands, so that a caller can report faults of
// meaning in the words of faults of form.
type Lines struct {
	file string
	at   map[string]int
	bad  map[string]bool
	read bool // its keys were looked at
	// unlined says that it is no file: one value, of one line.
	unlined bool
}

// Where is what said the value at path, as FILE:LINE or, of a value that was [Set], its source; empty:
// it was not said here.
func (l *Lines) Where(path string) string {
	switch {
	case !l.Has(path):
		return ""
	case l.unlined:
		return l.file
	}
	return l.file + ":" + strconv.Itoa(l.at[path])
}

// Has says whether the file has a value at path, well formed or not.
func (l *Lines) Has(path string) bool { return l.at[path] != 0 }

// Bad says whether Decode reported a fault at path: what was decoded there means nothing.
func (l *Lines) Bad(path string) bool { return l.bad[path] }

// Unread says whether Decode could not tell the keys of the file: none of them is missing, then.
func (l *Lines) Unread() bool { return !l.read }

// Of is the line of path or, where the file has nothing there, of the nearest thing around it.
func (l *Lines) Of(path string) int {
	for {
		if line := l.at[path]; line != 0 {
			return line
		}
		if path == "" {
			return 1
		}
		path = parent(path)
	}
}

// Fault is a fault at path, with the file and the line filled in.
func (l *Lines) Fault(path, got, allowed, hint string) Fault {
	line := l.Of(path)
	if l.unlined {
		line = 0
	}
	return Fault{File: l.file, Line: line, Field: path, Got: got, Allowed: allowed, Hint: hint}
}

// lastStep is the end of a path: .key, ["odd key"] or [3].
var lastStep = regexp.MustCompile(`(\.[A-Za-z0-9_-]+|\["(?:[^"\\]|\\.)*"(?:…)?\]|\[[0-9]+\])$`)

func parent(path string) string {
	at := lastStep.FindStringIndex(path)
	if at == nil {
		return ""
	}
	return path[:at[0]]
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Key is the path of a key inside the mapping at path. Odd keys are quoted.
func Key(path, key string) string {
	switch {
	case !plainKey.MatchString(key):
		return path + "[" + Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// Index is the path of element i of the list at path.
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
