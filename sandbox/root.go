package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

const (
	emptyDir    = "/empty" // the working directory
	scannerPath = "/scanner"
	inputDir    = "/in"
	// where the new root is put together, before it is the root
	workshop = "/tmp"
)

// trees are shown read-only where the machine has them. On a machine with a
// merged /usr all but the first are symbolic links, and are made again as such.
var trees = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// etcFiles are shown where the machine has them. Configuration of scanners
// (/etc/masscan) is not among them: it would add arguments.
var etcFiles = []string{
	"etc/ld.so.cache",  // without it libraries outside the default directories are not found
	"etc/alternatives", // nmap's libblas is found through it on Debian
	"etc/services", "etc/protocols", "etc/localtime",
	"etc/ssl/certs", "etc/pki/tls/certs", "etc/pki/ca-trust/extracted", // certificate authorities
}

var devices = []string{"dev/null", "dev/zero", "dev/random", "dev/urandom"}

// procLinks is all of /proc that a scanner sees by name. The file system
// itself lies in a hidden directory, without other processes and without
// anything but processes, so there is nothing to mask.
var procLinks = map[string]string{
	"proc/self": ".p/self", "proc/thread-self": ".p/thread-self", "proc/net": ".p/self/net", "proc/mounts": ".p/self/mounts",
}

// buildRoot makes a root from nothing and goes there. No file of it was ever
// in reach of a scanner, so no path in it can be a trap.
func buildRoot(p *plan) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("tmpfs", workshop, "tmpfs", flags, "size=512k,nr_inodes=512,mode=755"); err != nil {
		return fmt.Errorf("cannot mount the root: %w", err)
	}
	if err := unix.Chdir(workshop); err != nil {
		return err
	}
	for _, fill := range []func(*plan) error{showTrees, writeEtc, showFiles, mountProc, mountTmp} {
		if err := fill(p); err != nil {
			return err
		}
	}
	return enterRoot()
}

func showTrees(*plan) error {
	for _, name := range trees {
		link, err := os.Readlink("/" + name)
		if err == nil {
			err = os.Symlink(link, name)
		} else {
			err = show(name, 0)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range etcFiles {
		if err := show(name, unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	for _, name := range devices {
		if err := show(name, unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// show binds a file or directory of the machine at the same name, read-only.
// What the machine has not, the box has not.
func show(name string, attributes uint64) error {
	info, err := os.Stat("/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeDevice == 0 {
		attributes |= unix.MOUNT_ATTR_NODEV
	}
	fd, err := detach(unix.AT_FDCWD, "/"+name, attributes)
	if err != nil {
		return fmt.Errorf("cannot bind /%s: %w", name, err)
	}
	defer unix.Close(fd)
	return attach(fd, name, info.IsDir())
}

// detach clones a mount, with all below it, read-only from the first moment
// on and on its own: nothing mounted later on the machine shows up in it.
func detach(dir int, path string, attributes uint64) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE)
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(dir, path, flags)
	if err != nil {
		return -1, err
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{
		Attr_set:    attributes | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID,
		Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func attach(fd int, target string, dir bool) error {
	var err error
	if dir {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = write(target, "")
	}
	if err == nil {
		err = unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", target, err)
	}
	return nil
}

func write(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

// writeEtc writes what the box must not take from the machine: names are
// resolved as the job says, and users are not disclosed.
func writeEtc(p *plan) error {
	id := strconv.Itoa(int(p.Spec.UID)) + ":" + strconv.Itoa(int(p.Spec.GID))
	for name, content := range map[string]string{
		"etc/hosts":         p.Spec.Hosts,
		"etc/resolv.conf":   p.Spec.Resolv,
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
		"etc/passwd":        "scanner:x:" + id + "::/:/nonexistent\n",
		"etc/group":         "scanner:x:" + strconv.Itoa(int(p.Spec.GID)) + ":\n",
	} {
		if err := write(name, content); err != nil {
			return err
		}
	}
	return nil
}

func showFiles(p *plan) error {
	for _, b := range p.Binds {
		if err := attach(b.FD, strings.TrimPrefix(b.Target, "/"), false); err != nil {
			return err
		}
	}
	return os.Mkdir(strings.TrimPrefix(emptyDir, "/"), 0o555)
}

// mountProc must come after the new pid namespace: it shows the one it is mounted from.
func mountProc(*plan) error {
	if err := os.MkdirAll("proc/.p", 0o755); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("proc", "proc/.p", "proc", flags, "hidepid=invisible,subset=pid"); err != nil {
		return fmt.Errorf("cannot mount proc: %w", err)
	}
	for name, target := range procLinks {
		if err := os.Symlink(target, name); err != nil {
			return err
		}
	}
	return nil
}

func mountTmp(p *plan) error {
	l := p.Spec.Limits
	if err := os.Mkdir("tmp", 0o755); err != nil || l.Tmp == 0 {
		return err
	}
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=700,uid=%d,gid=%d", l.Tmp, l.TmpInodes, p.Spec.UID, p.Spec.GID)
	if err := unix.Mount("tmpfs", "tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("cannot mount /tmp: %w", err)
	}
	return nil
}

// enterRoot makes the workshop the root and lets go of the machine's. The two
// lie on each other at ".", so no directory is needed to put the old one.
func enterRoot() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot let go of the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	})
}

// File rights by the Landlock version that brought them.
var fileRights = []struct {
	abi    int
	rights uint64
}{
	{1, landlock.AccessFSMakeSym<<1 - 1}, // all of the first version lie below
	{2, landlock.AccessFSRefer},
	{3, landlock.AccessFSTruncate},
	{5, landlock.AccessFSIoctlDev},
}

const (
	mayRead  = landlock.AccessFSReadFile | landlock.AccessFSReadDir
	mayRun   = mayRead | landlock.AccessFSExecute
	mayUse   = landlock.AccessFSReadFile | landlock.AccessFSWriteFile
	mayWrite = mayRead | landlock.AccessFSWriteFile | landlock.AccessFSTruncate | landlock.AccessFSMakeReg |
		landlock.AccessFSMakeDir | landlock.AccessFSRemoveFile | landlock.AccessFSRemoveDir
	// rights that a rule on a file, not a directory, may carry
	ofFiles = landlock.AccessFSExecute | landlock.AccessFSReadFile | landlock.AccessFSWriteFile |
		landlock.AccessFSTruncate | landlock.AccessFSIoctlDev
)

// fileRules is what Landlock lets through: with a root of its own the second
// lock on the same doors, without one the only lock.
func fileRules(p *plan) map[string]uint64 {
	rules := map[string]uint64{"/usr": mayRun, "/etc": mayRead, "/dev/null": mayUse, "/dev/zero": mayUse, "/dev/random": mayUse, "/dev/urandom": mayUse}
	for _, name := range trees {
		rules["/"+name] = mayRun
	}
	if !p.Spec.Has(Root) {
		rules["/proc/self"] = mayRead
		return rules
	}
	rules["/proc"] = mayRead
	rules[inputDir] = mayRead
	rules[emptyDir] = mayRead
	rules["/tmp"] = mayWrite
	return rules
}

func restrictFiles(p *plan) error {
	attr := landlock.RulesetAttr{}
	for _, r := range fileRights {
		if p.ABI >= r.abi {
			attr.HandledAccessFS |= r.rights
		}
	}
	if p.ABI >= 4 && !profiles[p.Spec.Box].network {
		attr.HandledAccessNet = landlock.AccessNetBindTCP | landlock.AccessNetConnectTCP
	}
	if p.ABI >= 6 {
		attr.Scoped = landlock.ScopeAbstractUnixSocket | landlock.ScopeSignal
	}
	ruleset, err := landlock.LandlockCreateRuleset(&attr, 0)
	if err != nil {
		return fmt.Errorf("cannot create rules: %w", err)
	}
	defer unix.Close(ruleset)
	for path, rights := range fileRules(p) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot open %s: %w", path, err)
		}
		err = allow(ruleset, fd, rights&attr.HandledAccessFS)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("cannot allow %s: %w", path, err)
		}
	}
	if err := allow(ruleset, p.execFD(), mayRun&attr.HandledAccessFS); err != nil {
		return fmt.Errorf("cannot allow the scanner: %w", err)
	}
	return landlock.LandlockRestrictSelf(ruleset, 0)
}

func allow(ruleset, fd int, rights uint64) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= ofFiles
	}
	return landlock.LandlockAddPathBeneathRule(ruleset, &landlock.PathBeneathAttr{AllowedAccess: rights, ParentFd: fd}, 0)
}
