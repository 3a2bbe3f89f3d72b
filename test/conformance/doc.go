// Package conformance judges the protocol with tools that others made: the official suite, in both
// of its lines, and the inspector, pinned in package-lock.json with the Node they need. `make
// conformance` installs them and runs its tests, which are behind the build tag conformance.
//
// The suite wants to find a server with its own tools: fixture is one, on the daemon's sessions.
// What needs none of those, and the inspector, are run against the daemon itself.
package conformance
