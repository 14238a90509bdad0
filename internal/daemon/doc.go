// Package daemon runs servers as processes of their own, `glide serve` first of
// all, and the verbs of `glide` against them. Tests of whole daemons, the demo and
// the benchmark use it.
//
// A server dies with the process that started it, gets no signals from the
// terminal, and is ended by its process ID. What it says is kept in a Log, for the
// error of a start that fails and for tests that look into it.
//
// The package makes no choices for its callers: where the data and the sockets are,
// the flags and the environment are theirs. ShortDir and FreeAddr help with
// sockets and ports.
package daemon
