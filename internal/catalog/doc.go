// Package catalog reads volumes in the store: the newest object of a log, its history,
// and published states, which it opens for reading. It changes nothing there.
//
// no-silent-rollback: a log does not get shorter, and it does not vanish. If the store
// shows an older state than it showed to this process before, that state is refused.
//
// The only lock protects the table of generations that were seen. It is held over no I/O
// and no other lock. All methods may be called concurrently.
package catalog
