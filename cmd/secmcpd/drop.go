package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropAndExec makes this process the front's user for good and starts its program again with
// args and env. Credentials belong to threads and a Go process has several; the exec leaves only this
// one, so nothing of the privilege remains in another.
func dropAndExec(uid, gid uint32, args, env []string) error {
	runtime.LockOSThread()
	last, err := lastCapability()
	if err != nil {
		return err
	}
	for c := range last + 1 {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("cannot empty the bounding set: %w", err)
		}
	}
	// Raw calls: the syscall package would change every thread, which cgo programs do through
	// libc; here one thread is the point. Groups before gid before uid: each needs the privilege
	// that the last one takes away.
	for _, step := range []struct {
		name       string
		call, a, b uintptr
		c          uintptr
	}{
		{"setgroups", unix.SYS_SETGROUPS, 0, 0, 0},
		{"setresgid", unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
		{"setresuid", unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(step.call, step.a, step.b, step.c); errno != 0 {
			return fmt.Errorf("cannot drop privilege: %s: %w", step.name, errno)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot drop privilege: no_new_privs: %w", err)
	}
	return fmt.Errorf("cannot start the front: %w", unix.Exec("/proc/self/exe", args, env))
}

func lastCapability() (int, error) {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, fmt.Errorf("cannot tell the kernel's last capability: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("cannot tell the kernel's last capability: %w", err)
	}
	return n, nil
}
