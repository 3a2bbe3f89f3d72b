// Package sandbox puts one scanner process in a box: a cgroup, namespaces, a
// read-only root, a uid without capabilities, Landlock, seccomp and resource
// limits. What the scanner may send to is not decided here: the box is given
// a network namespace that already carries its filter.
//
// The flow of one job:
//
//	Spec         what is wished, plain data, printed by String
//	Probe        what this kernel and this process can do
//	Fit          Spec x Features -> Spec, and what could not be had (pure)
//	Run          cgroup -> clone of this binary into it -> Init -> exec -> watch -> kill -> empty
//	Init         the inside of the box, step by step, until execveat
//
// Run refuses to start a box with a layer missing unless the configuration
// accepts exactly that layer by name.
package sandbox
