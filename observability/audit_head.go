package observability

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The head notes the last record beside the log, so that cutting off its end is noticed. It is a file
// of two slots that are written in turn and in place: that takes no space, and of a slot that a crash
// has torn the other one is left. A slot is a line of text, blank to its end:
//
//	TURN SEQ HASH SUM
//
// TURN counts the writes, so that the newest slot is known; SUM is of the text before it. A head of
// earlier versions is one line, SEQ HASH.
const (
	head     = "audit.head"
	slotSize = 4096 // no two slots share a block
	headSize = 2 * slotSize
)

// headText is what a head says.
type headText struct {
	missing bool // there is none
	broken  bool // it names no record
	seq     uint64
	hash    string
	slots   bool // it is of two slots
	slot    int  // the newest
	turn    uint64
}

// readHead reads the head of a log.
func readHead(dir string) (headText, error) {
	f, err := openFile(filepath.Join(dir, head))
	if errors.Is(err, fs.ErrNotExist) {
		return headText{missing: true}, nil
	}
	if err != nil {
		return headText{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, headSize+1))
	if err != nil {
		return headText{}, err
	}
	return parseHead(b), nil
}

func parseHead(b []byte) headText {
	if len(b) != headSize {
		return parseLine(b)
	}
	newest := headText{broken: true}
	for slot := range 2 {
		turn, seq, hash, ok := parseSlot(b[slot*slotSize : (slot+1)*slotSize])
		if ok && (newest.broken || turn > newest.turn) {
			newest = headText{seq: seq, hash: hash, slots: true, slot: slot, turn: turn}
		}
	}
	return newest
}

// parseLine reads the one line of earlier versions.
func parseLine(b []byte) headText {
	number, hash, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || strings.ContainsAny(hash, " \n") {
		return headText{broken: true}
	}
	return headText{seq: seq, hash: hash}
}

func slotText(turn, seq uint64, hash string) []byte {
	text := fmt.Sprintf("%d %d %s", turn, seq, hash)
	line := fmt.Appendf(nil, "%s %s\n", text, slotSum(text))
	return append(line, bytes.Repeat([]byte(" "), slotSize-len(line))...)
}

func slotSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

func parseSlot(b []byte) (turn, seq uint64, hash string, ok bool) {
	line, _, _ := strings.Cut(string(b), "\n")
	words := strings.Split(line, " ")
	if len(words) != 4 || slotSum(strings.Join(words[:3], " ")) != words[3] {
		return 0, 0, "", false
	}
	turn, err := strconv.ParseUint(words[0], 10, 64)
	seq, wrong := strconv.ParseUint(words[1], 10, 64)
	return turn, seq, words[2], err == nil && wrong == nil
}

// headFile is the head while the log is open.
type headFile struct {
	file     *os.File
	path     string
	temp     string // its name until its first slot is written; empty from then on
	slot     int    // the newest that is good
	turn     uint64
	doubtful bool // the other one may name a record that does not count
}

// open takes up a head of two slots. Any other gets a successor, which takes its place with the first
// record that it names.
func (h *headFile) open(dir string, noted headText) (err error) {
	*h = headFile{path: filepath.Join(dir, head), slot: noted.slot, turn: noted.turn}
	if noted.slots {
		h.file, err = os.OpenFile(h.path, os.O_RDWR, 0)
		return err
	}
	h.temp = h.path + ".new"
	if h.file, err = os.OpenFile(h.temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640); err != nil {
		return err
	}
	inPlace(h.file)
	if _, err := h.file.WriteAt(bytes.Repeat([]byte(" "), headSize), 0); err != nil {
		return err
	}
	if noted.missing || noted.broken {
		return nil
	}
	return h.write(noted.seq, noted.hash)
}

// write makes the head name a record. After an error the newest slot that is good names the one
// before, and the next write is to the place of the doubtful one.
func (h *headFile) write(seq uint64, hash string) error {
	if h.file == nil {
		return fs.ErrClosed
	}
	slot, turn := 1-h.slot, h.turn+1
	h.doubtful = true
	if _, err := h.file.WriteAt(slotText(turn, seq, hash), int64(slot)*slotSize); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(h.file.Fd())); err != nil {
		return err
	}
	if h.temp != "" {
		if err := os.Rename(h.temp, h.path); err != nil {
			return err
		}
		h.temp = ""
	}
	h.slot, h.turn, h.doubtful = slot, turn, false
	return nil
}

func (h *headFile) close() error {
	if h.file == nil {
		return nil
	}
	f := h.file
	h.file = nil
	return f.Close()
}
