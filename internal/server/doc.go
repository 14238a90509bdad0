// Package server is the daemon of a host as a process: its listeners, its store, the
// settings that change while it runs, its supervisor, signals, limits and shutdown. Run
// opens a host.Host between them, which does the work. `glide serve` is the only caller;
// it parses the settings.
//
// # Invariants
//
//	locked-first   unix sockets are created when the data directory is locked, so they are
//	               not those of another daemon; a file that is no socket is never replaced
//	probed-first   nothing is created in a store that has not passed the probe
//	local-first    a store that does not answer does not keep the daemon from serving
//	token-guarded  an API that other machines can reach needs tokens or certificates; the
//	               host's own token is sent only to this machine and to addresses that the
//	               operator allowed, and by a host with certificates to nobody
//	proved-peer    a host with certificates says nothing to another before that has proved
//	               that it is the one that a commit names
//	old-stays      what cannot be read again stays in use as it was
//	stop-in-order  a stop finishes requests, or ends them after a time; then the host syncs
//	               the log and closes. No stray signal ends the process
//
// # Locks
//
//	provedStore.mu  held while the store is opened: over I/O
//	sockets.mu      the unix sockets; held while they are looked at and created again
//	guards.mu       the table of the API's listeners; held over no I/O
//	supervisor.mu   the step that a start has reached; held over no I/O
//
// None is held while another of them is taken. What the files say is loaded under the
// lock of reload.Watcher, and read through atomic pointers. Run may be called once in a
// process.
package server
