package launcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
)

// scanner is a scanner's executable as it was found: the descriptor that was hashed is the one
// that is executed.
type scanner struct {
	file    *os.File // read-only; shared by all launches, closed when the file changed
	path    string
	sha256  string
	version runners.Version
	said    string // its version as text
	asks    string // the declaration by which its version was read, if there is one
	stamp   string // identity of the file: a change means a new scanner
}

// scanners remembers what was found. Looking again costs one stat unless the file changed.
type scanners struct {
	turn  chan struct{} // of one place: one look at a time
	found map[string]*scanner
	// ask runs the executable in a box without network and returns the first bytes that it
	// wrote.
	ask func(ctx context.Context, argv []string, exe *os.File) ([]byte, error)
}

// maxScanner bounds the executable that is hashed, in bytes.
const maxScanner = 256 << 20

// get finds the scanner of that name in set. The error is fit for a caller: it names the path and what to do.
func (s *scanners) get(ctx context.Context, set *Live, name string) (*scanner, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	path := cmp.Or(set.Tools.Program(name), set.Scanners[name])
	if path == "" {
		return nil, fmt.Errorf("no path is configured for %s", name)
	}
	file, stamp, err := openScanner(path)
	if err != nil {
		return nil, err
	}
	// Another declaration asks the same program for its version in another way.
	asks := set.Tools.Asks(name)
	if old := s.found[name]; old != nil && old.stamp == stamp && old.asks == asks {
		file.Close()
		return old, nil
	}
	found, err := s.examine(ctx, set.Tools, name, path, stamp, file)
	if err != nil {
		file.Close()
		return nil, err
	}
	found.asks = asks
	// An older one may still be starting somewhere: its descriptor is closed by the garbage
	// collector, not here.
	s.found[name] = found
	return found, nil
}

func openScanner(path string) (*os.File, string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, "", fmt.Errorf("cannot find the scanner %s: %w (install it, or set its path)", path, errors.Unwrap(err))
	}
	file, err := os.OpenFile(real, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", fmt.Errorf("cannot open the scanner: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil && info.Mode().Perm()&0o111 == 0 {
		err = errors.New("not executable")
	}
	if err == nil {
		err = trustedInfo(real, info)
	}
	if err != nil {
		file.Close()
		return nil, "", fmt.Errorf("cannot use the scanner %s: %w", real, err)
	}
	return file, stampOf(info), nil
}

func (s *scanners) examine(ctx context.Context, tools runners.Table, name, path, stamp string, file *os.File) (*scanner, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(file, 0, maxScanner+1))
	if err != nil {
		return nil, fmt.Errorf("cannot hash the scanner %s: %w", path, err)
	}
	if n > maxScanner {
		return nil, fmt.Errorf("cannot use the scanner %s: larger than %d bytes", path, maxScanner)
	}
	v, err := s.version(ctx, tools, name, path, file)
	if err != nil {
		return nil, err
	}
	var help [][]byte
	for _, words := range tools.HelpArguments(name) {
		out, err := s.ask(ctx, append([]string{name}, words...), file)
		if err != nil {
			return nil, fmt.Errorf("cannot ask the scanner %s for its options: %w", path, err)
		}
		help = append(help, out)
	}
	if err := tools.Known(name, v, help); err != nil {
		return nil, fmt.Errorf("cannot use the scanner %s: %w", path, err)
	}
	return &scanner{file: file, path: path, sha256: hex.EncodeToString(h.Sum(nil)), version: v, said: v.String(), stamp: stamp}, nil
}

// version asks in each way that there is, until an answer has one.
func (s *scanners) version(ctx context.Context, tools runners.Table, name, path string, file *os.File) (runners.Version, error) {
	var errs []error
	for _, words := range tools.VersionArguments(name) {
		out, err := s.ask(ctx, append([]string{name}, words...), file)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot ask the scanner %s for its version: %w", path, err))
			continue
		}
		v, err := tools.ParseVersion(name, out)
		if err == nil {
			return v, nil
		}
		errs = append(errs, fmt.Errorf("cannot use the scanner %s: %w", path, err))
	}
	return runners.Version{}, errors.Join(errs...)
}

func (s *scanner) onWire(tool string) wire.Scanner {
	return wire.Scanner{Tool: tool, Path: s.path, Version: s.said, SHA256: s.sha256}
}

// CheckScanner says why the launcher would not use the executable at path.
func CheckScanner(path string) error {
	if path == "" {
		return errors.New("no path is configured")
	}
	file, _, err := openScanner(path)
	if err != nil {
		return err
	}
	return file.Close()
}
