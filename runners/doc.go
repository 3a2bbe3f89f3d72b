// Package runners knows the scanners: for each one a tool that agents see, the typed arguments it takes, what those
// arguments ask for (a Plan that policy can judge) and the argument vector that does it.
//
// The way of one call, all of it pure:
//
//	arguments (JSON) ── Read ──► Call ── Plan ──► policy judges ──► Call.Bounded ── Command ──► argv, box
//	                              ▲
//	            Validate: the same rules for a Call that came over the wire
//
// A Call is canonical: two ways of writing the same request read as the same value, and Validate refuses a value that
// Read could not have made. No text of a caller reaches argv: addresses are the judged ones, re-printed; numbers are
// printed from integers; words come from the tables in this package.
package runners
