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
//	Run          cgroup -> clone into it -> watch -> kill -> empty
//	child.c      in the child of that clone, step by step, until execveat
//	template.go  the root of boxes, as far as they are alike, kept by a thread
//
// What a scanner prints goes to two files that the caller made and holds, and to which it can
// only append. Nothing else of a box is collected: its /tmp ends with it.
//
// Run refuses to start a box with a layer missing unless the configuration
// accepts exactly that layer by name.
package sandbox
