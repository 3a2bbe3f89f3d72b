package launcher

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWordlists(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write(at("small.txt"), "a\nb\n#c\n\nlast", 0o644)
	write(at("bare"), "a\n", 0o644)
	write(at("comments.txt"), "# a\n \n#b", 0o644)
	write(at("shared.txt"), "a\n", 0o666)
	write(at("secret.txt"), "a\n", 0o600)
	write(at("empty.txt"), "", 0o644)
	write(at("long.txt"), strings.Repeat("x", 70<<10), 0o644)
	write(at("many.txt"), strings.Repeat("x\n", maxLines+1), 0o644)
	write(at("foreign.txt"), "a\n", 0o644)
	write(filepath.Join(other, "outside.txt"), "a\n", 0o644)
	write(filepath.Join(other, "small.txt"), "only one\n", 0o644)
	if err := errors.Join(os.Chown(at("foreign.txt"), 65534, 65534), os.Symlink(filepath.Join(other, "outside.txt"), at("link.txt")),
		os.Symlink(other, at("linked")), os.Mkdir(at("folder.txt"), 0o755), unix.Mkfifo(at("fifo.txt"), 0o644)); err != nil {
		t.Fatal(err)
	}
	w, dirs := wordlists{}, []string{"/nonexistent", dir, other}
	for _, row := range []struct {
		name  string
		lines int64
		why   string
	}{
		{"small", 5, ""}, // of the first directory
		{"bare", 1, ""},
		{"outside", 1, ""}, // of the second
		{"none", 0, "no wordlist of that name"},
		{"shared", 0, "may be written by others"},
		{"secret", 0, "readable by all"},
		{"empty", 0, "0 lines"},
		{"comments", 0, "no word"},
		{"long", 0, "longer than"},
		{"many", 0, "lines, not 1 to"},
		{"foreign", 0, "belongs to uid 65534"},
		{"link", 0, "symbolic link"},
		{"folder", 0, "no regular file"},
		{"fifo", 0, "no regular file"},
		{"../small", 0, "no wordlist of that name"},
		{".", 0, "no wordlist of that name"},
		{"", 0, "no wordlist of that name"},
	} {
		list, err := w.open(dirs, row.name)
		if row.why != "" {
			if err == nil || !strings.Contains(err.Error(), row.why) {
				t.Errorf("%s: %v, want %q", row.name, err, row.why)
			}
			continue
		}
		if err != nil || list.Lines != row.lines || list.Name != row.name || len(list.SHA256) != 64 {
			t.Errorf("%s: %+v, %v", row.name, list.Wordlist, err)
			continue
		}
		if row.name == "small" && list.Blank != 2 {
			t.Errorf("%+v: its lines without a word are miscounted", list.Wordlist)
		}
		list.file.Close()
	}
	if _, err := new(wordlists).open([]string{at("linked")}, "small"); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a directory that is a link: %v", err)
	}
	// A list that changes is counted again.
	write(at("small.txt"), "a\n", 0o644)
	if list, err := w.open(dirs, "small"); err != nil || list.Lines != 1 {
		t.Errorf("%+v, %v", list.Wordlist, err)
	} else {
		list.file.Close()
	}
	lists, count := w.list(t.Context(), dirs)
	said := map[string]string{}
	for _, l := range lists {
		said[l.Name] = l.Problem
	}
	if count != len(lists) || said["small"] != "" || said["shared"] == "" || len(said) != count {
		t.Errorf("%d: %+v", count, lists)
	}
	if _, listed := said["link"]; listed {
		t.Error("a link is listed")
	}
}
