//go:build packages

// Package packaging judges the packages that `make packages` made, without installing them on this machine.
package packaging

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	dist   = flag.String("dist", "", "the directory with the packages")
	nfpm   = flag.String("nfpm", "", "nfpm, to make one that is signed")
	update = flag.Bool("update", false, "write the list of contents anew")
)

// The processors, by the names that Go, the deb, the rpm and the compiler have for them.
var processors = []struct{ goarch, deb, rpm, triple string }{
	{"amd64", "amd64", "x86_64", "x86_64-linux-gnu"},
	{"arm64", "arm64", "aarch64", "aarch64-linux-gnu"},
}

// bound is what a package may take.
const bound = 15_000_000

// one gives the only file that fits.
func one(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(*dist, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s in %q: %v, %v, want one", pattern, *dist, files, err)
	}
	return files[0]
}

func deb(t *testing.T, i int) string { return one(t, "*_"+processors[i].deb+".deb") }
func rpm(t *testing.T, i int) string { return one(t, "*."+processors[i].rpm+".rpm") }

// run gives what a program prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out.String(), complaint.String())
	}
	return out.String()
}

// unpack gives the directory that a deb unpacks to.
func unpack(t *testing.T, i int) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "dpkg-deb", "--extract", deb(t, i), dir)
	return dir
}

func TestNoPackageIsLarge(t *testing.T) {
	for i := range processors {
		for _, file := range []string{deb(t, i), rpm(t, i)} {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %.1f MB", filepath.Base(file), float64(info.Size())/1e6)
			if info.Size() > bound {
				t.Errorf("%s has %d bytes, may have %d", filepath.Base(file), info.Size(), bound)
			}
		}
	}
}

// What is installed, with mode and owner: testdata/contents.txt, which `-update` writes. All that both kinds
// have in common is in it once.
func TestAPackageHoldsWhatIsListed(t *testing.T) {
	var listed []string
	for i, p := range processors {
		inDeb, inRPM := contentsOfDeb(t, i), contentsOfRPM(t, i)
		var all []string
		for _, line := range inDeb {
			if slices.Contains(inRPM, line) {
				all = append(all, "both "+line)
			} else {
				all = append(all, "deb  "+line)
			}
		}
		for _, line := range inRPM {
			if !slices.Contains(inDeb, line) {
				all = append(all, "rpm  "+line)
			}
		}
		slices.SortFunc(all, func(a, b string) int {
			return cmp.Or(strings.Compare(strings.Fields(a)[3], strings.Fields(b)[3]), strings.Compare(a, b))
		})
		if i == 0 {
			listed = all
		} else if !slices.Equal(all, listed) {
			t.Errorf("%s: other contents than those of %s:\n%s", p.goarch, processors[0].goarch, strings.Join(all, "\n"))
		}
	}
	const file = "testdata/contents.txt"
	text := strings.Join(listed, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		were := strings.Split(strings.TrimSpace(string(want)), "\n")
		for _, line := range listed {
			if !slices.Contains(were, line) {
				t.Errorf("is not listed: %s", line)
			}
		}
		for _, line := range were {
			if !slices.Contains(listed, line) {
				t.Errorf("is listed and not there: %s", line)
			}
		}
	}
}

// contentsOfDeb says mode, owner, path and, of a link, where it leads. Directories that every machine has are
// no contents: the deb has them all, the rpm none.
func contentsOfDeb(t *testing.T, i int) (lines []string) {
	for line := range strings.Lines(run(t, "dpkg-deb", "--contents", deb(t, i))) {
		f := strings.Fields(line)
		path := strings.TrimSuffix(strings.TrimPrefix(strings.Join(f[5:], " "), "."), "/")
		if f[1] == "0/0" { // no names beside the numbers
			f[1] = "root/root"
		}
		if f[0][0] == 'l' { // the kernel gives every link the same mode, whatever is packaged
			f[0] = "lrwxrwxrwx"
		}
		if !common(f[0], path) {
			lines = append(lines, strings.Join([]string{f[0], f[1], path}, " "))
		}
	}
	return lines
}

func contentsOfRPM(t *testing.T, i int) (lines []string) {
	const format = `[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES} -> %{FILELINKTOS}\n]`
	for line := range strings.Lines(run(t, "rpm", "--query", "--package", "--nosignature", "--queryformat", format, rpm(t, i))) {
		line = strings.TrimSuffix(strings.TrimSpace(line), " ->")
		if f := strings.Fields(line); !common(f[0], f[2]) {
			lines = append(lines, line)
		}
	}
	return lines
}

// common: a directory that bears another name than ours is the distribution's.
func common(mode, path string) bool { return mode[0] == 'd' && !strings.Contains(path, "secmcpd") }

// Whatever is new: root's, and nobody else's to write; one program, no privilege in a file's mode.
func TestWhatIsInstalledIsRoots(t *testing.T) {
	for i := range processors {
		for _, line := range append(contentsOfDeb(t, i), contentsOfRPM(t, i)...) {
			f := strings.Fields(line)
			want := "-rw-r--r--"
			switch {
			case f[0][0] == 'd' || f[2] == "/usr/bin/secmcpd":
				want = f[0][:1] + "rwxr-xr-x"
			case f[0][0] == 'l':
				want = "lrwxrwxrwx"
			}
			if f[0] != want || f[1] != "root/root" {
				t.Errorf("%s %s: %s of %s, want %s of root/root", processors[i].goarch, f[2], f[0], f[1], want)
			}
		}
	}
}

// The machine's libraries have to have what the binary asks of them.
func TestThePackagesDependOnWhatTheBinaryNeeds(t *testing.T) {
	for i, p := range processors {
		binary := filepath.Join(unpack(t, i), "usr/bin/secmcpd")
		dump := run(t, "readelf", "--wide", "--dynamic", "--version-info", binary)
		var newest int
		for _, m := range regexp.MustCompile(`GLIBC_2\.([0-9]+)\b`).FindAllStringSubmatch(dump, -1) {
			var minor int
			fmt.Sscan(m[1], &minor)
			newest = max(newest, minor)
		}
		var needed []string
		for _, m := range regexp.MustCompile(`\(NEEDED\).*\[(.+)\]`).FindAllStringSubmatch(dump, -1) {
			if !strings.HasPrefix(m[1], "ld-linux") { // glibc's own
				needed = append(needed, m[1])
			}
		}
		slices.Sort(needed)
		if want := []string{"libc.so.6", "libseccomp.so.2"}; !slices.Equal(needed, want) {
			t.Errorf("%s: needs %q, depends on %q", p.goarch, needed, want)
		}
		depends := run(t, "dpkg-deb", "--field", deb(t, i), "Depends")
		if want := fmt.Sprintf("libc6 (>= 2.%d)", newest); !strings.Contains(depends, want) {
			t.Errorf("%s: needs glibc 2.%d, the deb depends on %s", p.goarch, newest, depends)
		}
		requires := run(t, "rpm", "--query", "--package", "--nosignature", "--requires", rpm(t, i))
		for _, want := range []string{fmt.Sprintf("libc.so.6(GLIBC_2.%d)(64bit)\n", newest), "libseccomp.so.2()(64bit)\n", "systemd >= 249\n"} {
			if !strings.Contains(requires, want) {
				t.Errorf("%s: the rpm requires\n%s, which is not %s", p.goarch, requires, want)
			}
		}
		for what, recommended := range map[string]string{
			"deb": run(t, "dpkg-deb", "--field", deb(t, i), "Recommends"),
			"rpm": strings.ReplaceAll(strings.TrimSpace(run(t, "rpm", "--query", "--package", "--nosignature", "--recommends", rpm(t, i))), "\n", ", "),
		} {
			if got := strings.TrimSpace(recommended); got != "nmap, masscan, gobuster" {
				t.Errorf("%s: the %s recommends %s", p.goarch, what, got)
			}
		}
	}
}

func TestTheChecksumsAreOfEveryPackage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(*dist, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[name] = sum
	}
	for _, pattern := range []string{"*.deb", "*.rpm", "*.cdx.json"} {
		files, err := filepath.Glob(filepath.Join(*dist, pattern))
		if err != nil || len(files) != len(processors) {
			t.Errorf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			if got := listed[filepath.Base(file)]; got != sum(t, file) {
				t.Errorf("%s has another checksum than %q", filepath.Base(file), got)
			}
			delete(listed, filepath.Base(file))
		}
	}
	if len(listed) > 0 {
		t.Errorf("checksums of what is not there: %v", listed)
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// The bill of materials is of the binary that is in the packages, and names what was linked into it.
func TestTheBillIsOfTheInstalledBinary(t *testing.T) {
	for i, p := range processors {
		binary := filepath.Join(unpack(t, i), "usr/bin/secmcpd")
		text, err := os.ReadFile(one(t, "*_"+p.goarch+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var bill struct {
			Metadata struct {
				Component struct {
					Hashes []struct{ Alg, Content string }
				}
			}
			Components []struct{ PURL string }
		}
		if err := json.Unmarshal(text, &bill); err != nil {
			t.Fatal(err)
		}
		if h := bill.Metadata.Component.Hashes; len(h) != 1 || h[0].Content != sum(t, binary) {
			t.Errorf("%s: the bill is of %v, the binary is %s", p.goarch, h, sum(t, binary))
		}
		info, err := buildinfo.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		named := map[string]bool{}
		for _, c := range bill.Components {
			named[c.PURL] = true
		}
		for _, m := range info.Deps {
			if !named["pkg:golang/"+m.Path+"@"+m.Version] {
				t.Errorf("%s: the bill does not name %s %s", p.goarch, m.Path, m.Version)
			}
		}
		if len(info.Deps) < 10 {
			t.Errorf("%s: the binary names %d modules alone", p.goarch, len(info.Deps))
		}
	}
}

// The rpm, by rpm, in a root with nothing in it. Its scriptlets have no shell there: test/vm runs them.
func TestRPMInstallsAndErasesTheRPM(t *testing.T) {
	for i, p := range processors {
		root := t.TempDir()
		args := []string{"--root", root, "--dbpath", "/var/lib/rpm", "--nodeps", "--noscripts", "--nosignature", "--ignorearch"}
		run(t, "rpm", append(args, "--install", rpm(t, i))...)
		if diff := run(t, "rpm", append(args[:4:4], "--verify", "--nodeps", "--noscripts", "secmcpd")...); diff != "" {
			t.Errorf("%s: what was installed is other than packaged:\n%s", p.goarch, diff)
		}
		settings := filepath.Join(root, "etc/secmcpd/secmcpd.yaml")
		if err := os.WriteFile(settings, []byte("# by the operator\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, "rpm", append(args[:6:6], "--erase", "secmcpd")...)
		var left []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.Contains(strings.TrimPrefix(path, root), "secmcpd") {
				left = append(left, strings.TrimPrefix(path, root))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		// What the operator wrote, and the directory that it is in.
		if want := []string{"/etc/secmcpd", "/etc/secmcpd/secmcpd.yaml.rpmsave"}; !slices.Equal(left, want) {
			t.Errorf("%s: erased, %q is left, want %q", p.goarch, left, want)
		}
	}
}

func TestTheManualsArePlainToBothReaders(t *testing.T) {
	dir := unpack(t, 0)
	pages, err := filepath.Glob(filepath.Join(dir, "usr/share/man/man*/*.gz"))
	if err != nil || len(pages) < 3 {
		t.Fatalf("%v, %v", pages, err)
	}
	for _, page := range pages {
		packed, err := os.Open(page)
		if err != nil {
			t.Fatal(err)
		}
		defer packed.Close()
		text, err := gzip.NewReader(packed)
		if err != nil {
			t.Fatal(err)
		}
		plain := strings.TrimSuffix(page, ".gz")
		out, err := os.Create(plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.ReadFrom(text); err != nil {
			t.Fatal(err)
		}
		out.Close()
		for _, judge := range [][]string{
			{"mandoc", "-T", "lint", "-W", "warning", plain},
			{"sh", "-c", `MANROFFSEQ= MANWIDTH=80 man --warnings=all --encoding=UTF-8 --local-file "$0" 2>&1 >/dev/null`, plain},
		} {
			if said := run(t, judge[0], judge[1:]...); said != "" {
				t.Errorf("%s: %s:\n%s", filepath.Base(plain), judge[0], said)
			}
		}
	}
}

// Under an emulator of the processor, not of its kernel: seccomp, Landlock and BPF are not tried so.
func TestTheOtherProcessorsBinaryRuns(t *testing.T) {
	here := unpack(t, slices.IndexFunc(processors, func(p struct{ goarch, deb, rpm, triple string }) bool { return p.goarch == runtime.GOARCH }))
	for i, p := range processors {
		if p.goarch == runtime.GOARCH {
			continue
		}
		there := filepath.Join(unpack(t, i), "usr/bin/secmcpd")
		emulator := "qemu-" + strings.TrimSuffix(p.triple, "-linux-gnu") + "-static"
		page, err := filepath.Abs("man/secmcpd.8")
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range []string{"version", "help", "completion bash", "manual secmcpd <" + page} {
			want := run(t, "sh", "-c", filepath.Join(here, "usr/bin/secmcpd")+" "+args)
			got := run(t, "./cross", p.goarch, "sh", "-c", emulator+" "+there+" "+args)
			if got != want || got == "" {
				t.Errorf("%s: secmcpd %s prints something else than here:\n%s", p.goarch, args, got)
			}
		}
	}
}

// With a key that is made for it and thrown away.
func TestSignedPackagesAndChecksumsAreVerified(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GNUPGHOME", dir)
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run() })
	gpg := func(args ...string) string { return run(t, "gpg", append([]string{"--batch", "--quiet"}, args...)...) }
	gpg("--passphrase", "", "--quick-generate-key", "thrown away <nobody@secmcpd.example>", "rsa3072", "sign", "1d")
	secret, public := filepath.Join(dir, "secret.asc"), filepath.Join(dir, "public.asc")
	gpg("--armor", "--output", secret, "--export-secret-keys")
	gpg("--armor", "--output", public, "--export")

	made := filepath.Join(dir, "made")
	if err := os.Mkdir(made, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "sh", "-c", `cd .. && VERSION=1 GOARCH=$0 SIGN_KEY=$1 exec "$2" package -f nfpm.yaml -p rpm -t "$3/"`, runtime.GOARCH, secret, *nfpm, made)
	database := filepath.Join(dir, "database")
	run(t, "rpm", "--dbpath", database, "--import", public)
	files, err := filepath.Glob(filepath.Join(made, "*.rpm"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	said := run(t, "rpm", "--dbpath", database, "--checksig", "--verbose", files[0])
	if !strings.Contains(said, "Signature") || strings.Contains(said, "NOKEY") || strings.Contains(said, "BAD") {
		t.Errorf("rpm says of a signed package:\n%s", said)
	}

	sums := filepath.Join(dir, "SHA256SUMS")
	run(t, "cp", filepath.Join(*dist, "SHA256SUMS"), sums)
	run(t, "./sign", secret, sums)
	gpg("--verify", sums+".asc", sums)
	if err := os.WriteFile(sums, []byte("something else\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gpg", "--batch", "--verify", sums+".asc", sums).CombinedOutput(); err == nil {
		t.Errorf("a list that was changed is verified:\n%s", out)
	}
}
