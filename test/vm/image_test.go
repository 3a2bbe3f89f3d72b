//go:build systest

package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// An image is a Debian root directory and, for the virtual machine, the same as a file system.
// It is made once and kept outside the tree, under the hash of its recipe.
type image struct {
	suite   string
	systemd string // version, as the suite has it
	dir     string // root/ and root.ext4
}

// The kernel is Debian 12's in both virtual machines: a guest without hardware virtualisation
// runs it reliably, and it is the oldest that the package supports.
const (
	kernelSuite = "bookworm"
	kernel      = "linux-image-amd64"
)

var suites = []struct{ suite, systemd string }{
	{"bookworm", "252"},
	{"trixie", "257"},
}

// between lies a systemd that is Debian 12's in all else. What it might take otherwise are the units, and so it
// runs the cases that are about them, in a container.
var (
	between  = struct{ suite, systemd string }{"bookworm-backports", "254"}
	ofUnits  = regexp.MustCompile(`^(10-install|20-start|21-rooms|25-security|30-scan|62-switch|90-remove|91-purge)$`)
	fromPins = "Package: src:systemd\nPin: release n=bookworm-backports\nPin-Priority: 990\n"
)

// guestPackages is what every guest needs: what the deb depends on, and what the cases use.
const guestPackages = "systemd,systemd-sysv,udev,kmod,iproute2,procps,nftables,iptables,libseccomp2,nmap,init-system-helpers,rpm"

const (
	buildLimit = 10 * time.Minute
	diskSize   = "3G" // sparse; what the guest may write
)

// prepare gives the test image of a suite, and makes it if it is not there.
func prepare(t *testing.T, suite, systemd string) image {
	t.Helper()
	im, err := build(t.Context(), suite)
	if err != nil {
		t.Fatalf("cannot make the image of %s: %v", suite, err)
	}
	im.systemd = systemd
	return im
}

func build(ctx context.Context, suite string) (image, error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	recipe, err := recipeFor(ctx, suite)
	if err != nil {
		return image{}, err
	}
	cache, err := cacheDir()
	if err != nil {
		return image{}, err
	}
	im := image{suite: suite, dir: filepath.Join(cache, recipe.name())}
	if _, err := os.Stat(im.dir); err == nil {
		return im, nil
	}
	// Made beside and renamed: a build that was cut short is never taken for an image.
	half, err := os.MkdirTemp(cache, "half-")
	if err != nil {
		return image{}, err
	}
	defer os.RemoveAll(half)
	if err := os.Chmod(half, 0o755); err != nil {
		return image{}, err
	}
	if err := recipe.make(ctx, half); err != nil {
		return image{}, err
	}
	if err := os.Rename(half, im.dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return image{}, err
	}
	return im, nil
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "secmcpd-test")
	return dir, os.MkdirAll(dir, 0o755)
}

// recipe is all that goes into an image but the state of the mirror.
type recipe struct {
	suite, mirror string
	options       []string // apt's, as this machine has them
	packages      string
	unit          string
	modulesFrom   string // directory of the image whose kernel this one runs under
	pins          string // apt's preferences, where packages come of two suites
}

func recipeFor(ctx context.Context, suite string) (recipe, error) {
	r := recipe{suite: suite, packages: guestPackages}
	if suite == kernelSuite {
		r.packages += "," + kernel + ",initramfs-tools"
	} else {
		other, err := build(ctx, kernelSuite)
		if err != nil {
			return r, err
		}
		r.modulesFrom = other.dir
	}
	if suite == between.suite {
		r.pins = fromPins
	}
	unit, err := os.ReadFile("guest/secmcpd-guest.service")
	if err != nil {
		return r, err
	}
	r.unit = string(unit)
	r.mirror, r.options, err = mirror(ctx)
	return r, err
}

func (r recipe) name() string {
	of := []any{r.suite, r.packages, r.unit, r.modulesFrom, customise, diskSize}
	if r.pins != "" {
		of = append(of, r.pins)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", of))
	return fmt.Sprintf("%s-%x", r.suite, sum[:6])
}

// customise leaves out what makes a guest slower and tests nothing of ours. The initial RAM
// disk of a virtual machine holds the three modules that lead to its root.
var customise = []string{
	"--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d",
	"--essential-hook=echo MODULES=list > $1/etc/initramfs-tools/conf.d/small",
	"--essential-hook=printf '%s\\n' virtio_pci virtio_blk ext4 > $1/etc/initramfs-tools/modules",
	"--essential-hook=echo COMPRESS=gzip >> $1/etc/initramfs-tools/conf.d/small",
	"--customize-hook=mkdir $1/test",
	// Installed by the case that needs it, and by no other.
	"--customize-hook=mkdir $1/opt/exporter && cd $1/opt/exporter && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q download prometheus-node-exporter adduser",
	"--customize-hook=echo secmcpd-guest > $1/etc/hostname",
	"--customize-hook=systemctl --root=$1 mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-networkd-wait-online.service",
}

// mirror asks apt which Debian archive this machine uses, and through which proxy. Other suites
// lie beside.
func mirror(ctx context.Context) (uri string, options []string, err error) {
	own, err := exec.CommandContext(ctx, "sh", "-c", `. /etc/os-release && echo "$VERSION_CODENAME"`).Output()
	if err != nil {
		return "", nil, fmt.Errorf("cannot tell this machine's suite: %w", err)
	}
	codename := strings.TrimSpace(string(own))
	targets, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages").Output()
	if err != nil {
		return "", nil, fmt.Errorf("cannot ask apt for its sources: %w", err)
	}
	for line := range strings.Lines(string(targets)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[1] == codename && strings.Contains(f[0], "/debian") {
			uri = f[0]
			break
		}
	}
	if uri == "" {
		return "", nil, fmt.Errorf("apt has no source of %q with /debian in its address", codename)
	}
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return "", nil, fmt.Errorf("cannot ask apt for its configuration: %w", err)
	}
	for line := range strings.Lines(string(dump)) {
		if strings.HasPrefix(line, "Acquire::http") || strings.HasPrefix(line, "Acquire::Check-Valid-Until") {
			options = append(options, "--aptopt="+strings.TrimSpace(line))
		}
	}
	return uri, options, nil
}

func (r recipe) make(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	args := []string{"--quiet", "--variant=minbase", "--include=" + r.packages}
	args = append(args, r.options...)
	args = append(args, customise...)
	if base, is := strings.CutSuffix(r.suite, "-backports"); is {
		args = append(args, "--setup-hook=mkdir -p $1/etc/apt/preferences.d", fmt.Sprintf("--setup-hook=printf '%%b' '%s' > $1/etc/apt/preferences.d/backports", strings.ReplaceAll(r.pins, "\n", `\n`)),
			base, root, "deb "+r.mirror+" "+base+" main", "deb "+r.mirror+" "+r.suite+" main")
	} else {
		args = append(args, r.suite, root, r.mirror)
	}
	if err := command(ctx, "mmdebstrap", args...); err != nil {
		return err
	}
	unit := filepath.Join(root, "etc/systemd/system/secmcpd-guest.service")
	if err := os.WriteFile(unit, []byte(r.unit), 0o644); err != nil {
		return err
	}
	if err := command(ctx, "systemctl", "--root="+root, "enable", "secmcpd-guest.service"); err != nil {
		return err
	}
	if r.modulesFrom != "" {
		if err := command(ctx, "cp", "-a", filepath.Join(r.modulesFrom, "root/usr/lib/modules"), filepath.Join(root, "usr/lib/")); err != nil {
			return err
		}
	}
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, filepath.Join(dir, "root.ext4"), diskSize)
}

// command runs a program of the host; what it printed is in the error.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
