//go:build systest

package vm

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var (
	dist = flag.String("dist", "", "the directory with the packages, in which the rpm is")
	nfpm = flag.String("nfpm", "", "nfpm, which makes a later rpm to upgrade to")
)

// TestRPM has rpm itself install, upgrade and erase the package under a running systemd. The machine is
// Debian's, whose rpm knows of no other package, and whose systemd has no systemd-update-helper: the
// scriptlets do by systemctl what that would.
func TestRPM(t *testing.T) {
	k := kind{name: "container", perCase: time.Minute, all: 4 * time.Minute, disk: containerDisk, start: startContainer, cases: "rpm", packages: rpms}
	runCases(t, k, prepare(t, suites[0].suite, suites[0].systemd))
}

// rpms puts the rpm into the guest, and one of a later version with other settings in it.
func rpms(t *testing.T, dir string) {
	t.Helper()
	names := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}
	files, err := filepath.Glob(filepath.Join(*dist, "*."+names[runtime.GOARCH]+".rpm"))
	if err != nil || len(files) != 1 || *nfpm == "" {
		t.Fatalf("%v, %v in %q, nfpm %q: `make systest` makes the rpm and passes it with -dist and -nfpm", files, err, *dist, *nfpm)
	}
	if err := command(t.Context(), "cp", files[0], filepath.Join(dir, "secmcpd.rpm")); err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, from := range []string{"nfpm.yaml", "README.md", "docs", "systemd", "packaging", "deploy"} {
		if err := command(t.Context(), "cp", "-r", filepath.Join("../..", from), tree); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(*dist, filepath.Join(tree, "dist")); err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(tree, "packaging/etc/secmcpd.yaml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	write(t, settings, append(text, "# of the later version\n"...))
	version := strings.TrimPrefix(filepath.Base(files[0]), "secmcpd-")
	version, _, _ = strings.Cut(version, "-1.")
	if err := command(t.Context(), "env", "--chdir="+tree, "VERSION="+version+"+later", "GOARCH="+runtime.GOARCH, "SIGN_KEY=",
		*nfpm, "package", "-f", "nfpm.yaml", "-p", "rpm", "-t", filepath.Join(dir, "secmcpd-later.rpm")); err != nil {
		t.Fatal(err)
	}
}
