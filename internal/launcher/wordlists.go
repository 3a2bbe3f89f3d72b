package launcher

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
)

const (
	// maxWordlist bounds a list, in bytes, maxLines the words of it.
	maxWordlist = 50 << 20
	maxLines    = 1_000_000
	// maxLooked bounds the names that are looked at in one directory.
	maxLooked = 4096
)

var wordlistForm = regexp.MustCompile(runners.WordlistForm)

// wordlists are the lists that directories of the operator's hold, by name: NAME.txt or NAME, of the
// first directory that has it. What a list says goes to targets, so a file is one of root's and no
// other's, and is reached without a link: no name leads anywhere else.
type wordlists struct {
	mu      sync.Mutex
	counted map[string]wire.Wordlist // by the identity of the file; a change makes another
}

// wordlist is a list that was found. The descriptor that was counted is the one that is read.
type wordlist struct {
	wire.Wordlist
	file *os.File
}

// errNoWordlist says that no directory has a list of that name.
var errNoWordlist = errors.New("there is no wordlist of that name")

// open finds a list and counts it. The caller closes its file.
func (w *wordlists) open(dirs []string, name string) (wordlist, error) {
	if !wordlistForm.MatchString(name) {
		return wordlist{}, errNoWordlist
	}
	for _, dir := range dirs {
		for _, base := range []string{name + ".txt", name} {
			file, stamp, err := openWordlist(dir, base)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if errors.Is(err, unix.ELOOP) {
				err = errors.New("it, or a directory on the way to it, is a symbolic link")
			}
			if err != nil {
				return wordlist{}, fmt.Errorf("cannot use the wordlist %s/%s: %w", dir, base, err)
			}
			list, err := w.count(name, stamp, file)
			if err != nil {
				file.Close()
				return wordlist{}, fmt.Errorf("cannot use the wordlist %s/%s: %w", dir, base, err)
			}
			return wordlist{list, file}, nil
		}
	}
	return wordlist{}, errNoWordlist
}

func openWordlist(dir, base string) (*os.File, string, error) {
	at, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, "", err
	}
	defer unix.Close(at)
	fd, err := unix.Openat2(at, base, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil, "", err
	}
	file := os.NewFile(uintptr(fd), dir+"/"+base)
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("it is no regular file")
	case info.Mode().Perm()&0o004 == 0:
		err = errors.New("a box cannot read it: it has to be readable by all")
	case info.Size() > maxWordlist:
		err = fmt.Errorf("it is larger than %d MiB", maxWordlist>>20)
	default:
		err = trustedInfo(base, info)
	}
	if err != nil {
		file.Close()
		return nil, "", err
	}
	return file, stampOf(info), nil
}

// stampOf is the identity of a file and of what it holds.
func stampOf(info fs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d %d %d %d", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// count counts the lines of a list and hashes it, once as long as it does not change.
func (w *wordlists) count(name, stamp string, file *os.File) (wire.Wordlist, error) {
	w.mu.Lock()
	list, known := w.counted[stamp]
	w.mu.Unlock()
	if known {
		list.Name = name
		return list, nil
	}
	sum := sha256.New()
	lines := bufio.NewReaderSize(io.TeeReader(io.NewSectionReader(file, 0, maxWordlist), sum), 64<<10)
	list = wire.Wordlist{Name: name}
	for {
		line, err := lines.ReadSlice('\n')
		list.Bytes += int64(len(line))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return list, errors.New("a line is longer than 64 KiB")
		case err != nil && !errors.Is(err, io.EOF):
			return list, err
		case len(line) > 0:
			list.Lines++
			if word := bytes.TrimSpace(line); len(word) == 0 || word[0] == '#' {
				list.Blank++
			}
		}
		if err != nil {
			break
		}
	}
	if list.Lines == 0 || list.Lines > maxLines {
		return list, fmt.Errorf("it has %d lines, not 1 to %d", list.Lines, maxLines)
	}
	if list.Lines == list.Blank {
		return list, errors.New("it has no word: its lines are empty or begin with #")
	}
	list.SHA256 = hex.EncodeToString(sum.Sum(nil))
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.counted) >= maxLooked || w.counted == nil {
		w.counted = map[string]wire.Wordlist{}
	}
	w.counted[stamp] = list
	return list, nil
}

// wordlistNames are those of all lists, sorted, whether they can be used or not.
func wordlistNames(dirs []string) (names []string) {
	for _, dir := range dirs {
		at, err := os.Open(dir)
		if err != nil {
			continue // told by doctor
		}
		entries, _ := at.ReadDir(maxLooked)
		at.Close()
		for _, e := range entries {
			if name := strings.TrimSuffix(e.Name(), ".txt"); e.Type().IsRegular() && wordlistForm.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// list is the first lists that there are, with their lines.
func (w *wordlists) list(ctx context.Context, dirs []string) (lists []wire.Wordlist, count int) {
	names := wordlistNames(dirs)
	for _, name := range firstOf(names, wire.MaxList) {
		if ctx.Err() != nil {
			break
		}
		found, err := w.open(dirs, name)
		if err != nil {
			lists = append(lists, wire.Wordlist{Name: name, Problem: clipTo(err.Error(), maxWord)})
			continue
		}
		found.file.Close()
		lists = append(lists, found.Wordlist)
	}
	return lists, len(names)
}

// wordlist opens the list that a plan names; without one there is nothing to close.
func (l *Launcher) wordlist(set *Live, plan runners.Plan) (*wordlist, *wire.Refusal) {
	if plan.Wordlist == "" {
		return nil, nil
	}
	found, err := l.wordlists.open(set.Wordlists, plan.Wordlist)
	if err == nil {
		return &found, nil
	}
	names := wordlistNames(set.Wordlists)
	r := &wire.Refusal{Code: "wordlist_unusable", Field: "wordlist", Got: plan.Wordlist, Reason: clip(err.Error()), Allowed: firstOf(names, wire.MaxList),
		Hint: "use another one; the operator mends the file, or puts lists into a directory of wordlists.directories"}
	if errors.Is(err, errNoWordlist) {
		r.Code = "unknown_wordlist"
		if near := strict.Nearest(plan.Wordlist, names); near != "" {
			r.Hint = "did you mean " + near + "?"
		}
	}
	return nil, r
}

// onRecord is what a record says of a list; nil: the scan has none.
func (w *wordlist) onRecord() *wire.Wordlist {
	if w == nil {
		return nil
	}
	return &w.Wordlist
}

func (w *wordlist) close() {
	if w != nil {
		w.file.Close()
	}
}

// words is how many there are.
func (w *wordlist) words() int64 {
	if w == nil {
		return 0
	}
	return w.Lines
}

// inputs are what a box is given of it.
func (w *wordlist) inputs() []sandbox.Input {
	if w == nil {
		return nil
	}
	return []sandbox.Input{{Name: runners.Wordlist, File: w.file}}
}
