// Package report turns what a scanner printed into a Report: a bounded, plain value without anything in it that a
// scanned host could use against whoever reads it.
//
// The parser reads while the scanner writes, keeps what was complete when the output ends early, and never asks for
// more memory than its bounds allow, whatever it is fed. Text that a scanned host chose is found only under keys named
// "untrusted", and is cleaned where it is read, so that every later use has it clean.
package report
