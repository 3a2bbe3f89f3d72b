package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/runners"
)

// maxDeclaration bounds a declaration, in bytes: a job keeps a copy of its own.
const maxDeclaration = 64 << 10

// Declarations reads every scanner that a directory declares, in the order of file names. A file that
// is not safe or does not parse gives faults; the others stand. A directory that is not there declares
// none. Both rooms read it, each at its start: the launcher runs nothing else, and the front, which
// needs to read the files, cannot make it.
func Declarations(dir string) ([]runners.Declaration, strict.Faults, error) {
	if err := trusted(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("cannot read declarations of scanners: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read declarations of scanners: %w", err)
	}
	var out []runners.Declaration
	var faults strict.Faults
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".yaml") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if len(out) == runners.MaxDeclared {
			return out, faults, fmt.Errorf("cannot read declarations of scanners: %s has more than %d", dir, runners.MaxDeclared)
		}
		path := filepath.Join(dir, e.Name())
		d, wrong := declaration(path)
		if len(wrong) > 0 {
			faults = append(faults, wrong...)
			continue
		}
		out = append(out, d)
	}
	return out, faults, nil
}

func declaration(path string) (runners.Declaration, strict.Faults) {
	data, err := readTrusted(path, maxDeclaration)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Lstat(path); err == nil && info.Mode().Perm()&0o004 == 0 {
			err = fmt.Errorf("%s may not be read by the front (mode %04o)", path, info.Mode().Perm())
		}
	}
	if err != nil {
		return runners.Declaration{}, strict.Faults{{File: path, Line: 1, Field: "file", Got: err.Error(),
			Allowed: "a regular file that all may read, owned by root and writable by nobody else", Hint: "chown root " + path + " && chmod 644 " + path}}
	}
	return runners.ParseDeclaration(path, data)
}
