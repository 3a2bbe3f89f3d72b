package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

const (
	emptyDir = "/empty" // the working directory
	inputDir = "/in"
	// Where a launch puts what is the job's own: the template has the places.
	givenDir    = "/given/files" // hosts, resolv.conf, passwd, group, in/
	tmpDir      = "/own/tmp"
	scannerPath = "/exe/scanner" // one that is not under /usr
	// where the root is put together, before it is the root
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

// links of the root. Of /proc a scanner sees four names: the file system itself
// lies in a hidden directory, without other processes and without anything but
// processes, so there is nothing to mask.
var links = map[string]string{
	"proc/self": ".p/self", "proc/thread-self": ".p/thread-self", "proc/net": ".p/self/net", "proc/mounts": ".p/self/mounts",
	"etc/hosts": givenDir + "/hosts", "etc/resolv.conf": givenDir + "/resolv.conf",
	"etc/passwd": givenDir + "/passwd", "etc/group": givenDir + "/group",
	"in": givenDir + "/in", "tmp": tmpDir,
}

// A template is the root of boxes, as far as one box is like the next: read-only,
// made once, and copied by the clone into each box's own mount namespace. It is
// the mount namespace of one thread, and so are the rules of Landlock, whose
// files are those of this root.
type template struct {
	shown string // fingerprint of what it shows
	rules map[bool]int
}

// fingerprint tells whether a template still shows the machine as it is. A
// directory shows what happens in it; a file that was replaced would be the
// old one for as long as the template lives.
func fingerprint() string {
	var b strings.Builder
	for _, name := range slices.Concat(trees, etcFiles, devices) {
		var link, file unix.Stat_t
		_ = unix.Lstat("/"+name, &link) // what is not there is zeros
		_ = unix.Stat("/"+name, &file)
		fmt.Fprintf(&b, "%d:%d %d:%d\n", link.Dev, link.Ino, file.Dev, file.Ino)
	}
	return b.String()
}

// newTemplate changes the calling thread for good: it must be locked, and end
// with its goroutine.
func newTemplate(shown string, abi int) (*template, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot get a mount namespace: %w", err)
	}
	unix.Umask(0o022) // this thread's alone from here on: a service has 077, and scanners are another user
	if err := buildRoot(); err != nil {
		return nil, err
	}
	t := &template{shown: shown, rules: map[bool]int{}}
	for _, network := range []bool{false, true} {
		if abi < 1 {
			t.rules[network] = -1
			continue
		}
		ruleset, err := newRules(abi, network, ownRoot)
		if err != nil {
			t.close()
			return nil, err
		}
		t.rules[network] = ruleset
	}
	return t, nil
}

func (t *template) close() {
	for _, ruleset := range t.rules {
		if ruleset >= 0 {
			unix.Close(ruleset)
		}
	}
}

// buildRoot makes a root from nothing and goes there. No file of it was ever
// in reach of a scanner, so no path in it can be a trap.
func buildRoot() error {
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
	// Each name from here on is relative: to the workshop, on this thread alone.
	for _, fill := range []func() error{showTrees, makePlaces} {
		if err := fill(); err != nil {
			return err
		}
	}
	return enterRoot()
}

func showTrees() error {
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
	for _, name := range slices.Concat(etcFiles, devices) {
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
	if info.IsDir() {
		err = os.MkdirAll(name, 0o755)
	} else {
		err = write(name, "")
	}
	if err == nil {
		err = unix.MoveMount(fd, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", name, err)
	}
	return nil
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

func write(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

// makePlaces makes what a launch fills, and the links there.
func makePlaces() error {
	for _, dir := range []string{"proc/.p", givenDir[1:], tmpDir[1:]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(emptyDir[1:], 0o555); err != nil {
		return err
	}
	if err := write(scannerPath[1:], ""); err != nil {
		return err
	}
	if err := write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"); err != nil {
		return err
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil {
			return err
		}
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

// readOnlyTimeout bounds the wait for other launches, microseconds in practice.
const readOnlyTimeout = 5 * time.Second

// given is what a box must not take from the machine: names are resolved as the
// job says, and users are not disclosed. The places of inputs are among it.
func given(spec Spec) (mount int, err error) {
	mount, err = newTmpfs(0, map[string]string{"size": "512k", "nr_inodes": "128", "mode": "755"})
	if err != nil {
		return -1, err
	}
	id := strconv.Itoa(int(spec.UID)) + ":" + strconv.Itoa(int(spec.GID))
	files := map[string]string{
		"hosts":       spec.Hosts,
		"resolv.conf": spec.Resolv,
		"passwd":      "scanner:x:" + id + "::/:/nonexistent\n",
		"group":       "scanner:x:" + strconv.Itoa(int(spec.GID)) + ":\n",
	}
	err = errors.Join(unix.Mkdirat(mount, "in", 0o755), unix.Fchmodat(mount, "in", 0o755, 0)) // whatever the umask
	for _, in := range spec.Inputs {
		files["in/"+in.Name] = ""
	}
	for name, content := range files {
		if err == nil {
			err = writeAt(mount, name, content)
		}
	}
	for until := time.Now().Add(readOnlyTimeout); err == nil; time.Sleep(50 * time.Microsecond) {
		err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		// The child of another launch has a copy of what was open here a moment ago, until its first step.
		if err != unix.EBUSY || time.Now().After(until) {
			break
		}
		err = nil
	}
	if err != nil {
		unix.Close(mount)
		return -1, err
	}
	return mount, nil
}

func writeAt(dir int, name, content string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(content)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// ownTmp is the one place where a scanner may write.
func ownTmp(spec Spec) (mount int, err error) {
	return newTmpfs(0, map[string]string{"size": strconv.FormatInt(spec.Limits.Tmp, 10), "nr_inodes": strconv.Itoa(spec.Limits.TmpInodes),
		"mode": "700", "uid": strconv.Itoa(int(spec.UID)), "gid": strconv.Itoa(int(spec.GID))})
}

// newTmpfs makes a file system that is mounted nowhere yet.
func newTmpfs(attributes int, options map[string]string) (mount int, err error) {
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	for key, value := range options {
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return -1, fmt.Errorf("%s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, err
	}
	return unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attributes|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
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

// ownRoot is what Landlock lets through in a root of its own: the second lock on
// the same doors. A rule on a directory holds for what is mounted below it.
var ownRoot = map[string]uint64{"/proc": mayRead, "/given": mayRead, "/own": mayWrite, "/exe": mayRun, emptyDir: mayRead}

// newRules makes a ruleset for the root of the calling thread.
func newRules(abi int, network bool, more map[string]uint64) (int, error) {
	attr := landlock.RulesetAttr{HandledAccessFS: handled(abi)}
	if abi >= 4 && !network {
		attr.HandledAccessNet = landlock.AccessNetBindTCP | landlock.AccessNetConnectTCP
	}
	if abi >= 6 {
		attr.Scoped = landlock.ScopeAbstractUnixSocket | landlock.ScopeSignal
	}
	ruleset, err := landlock.LandlockCreateRuleset(&attr, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot create rules: %w", err)
	}
	rules := map[string]uint64{"/etc": mayRead}
	for _, name := range trees {
		rules["/"+name] = mayRun
	}
	for _, name := range devices {
		rules["/"+name] = mayUse
	}
	maps.Copy(rules, more)
	for path, rights := range rules {
		if err := allowPath(ruleset, path, rights&attr.HandledAccessFS); err != nil {
			unix.Close(ruleset)
			return -1, fmt.Errorf("cannot allow %s: %w", path, err)
		}
	}
	return ruleset, nil
}

func handled(abi int) (rights uint64) {
	for _, r := range fileRights {
		if abi >= r.abi {
			rights |= r.rights
		}
	}
	return rights
}

func allowPath(ruleset int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return allow(ruleset, fd, rights)
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
