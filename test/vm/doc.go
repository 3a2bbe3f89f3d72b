// Package vm installs the package on real systemd and looks at what happens: in a container
// (`make systest`) and in a virtual machine with every cgroup controller (`make vmtest`). It
// has tests only, behind the build tag systest; README.md says how to add a case.
package vm
