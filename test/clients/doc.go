// Package clients has real clients connect to the daemon with the very snippets of docs/agents.md:
// those that come from npm and can say without an account whether a server is there. They are pinned
// in package-lock.json. `make clients` installs them, 1.2 GB in all, and runs the tests, which are
// behind the build tag clients.
package clients
