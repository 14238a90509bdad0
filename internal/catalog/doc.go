// Package catalog reads what the store has of volumes: the newest object of a log,
// its history, and published states, opened for reading. It changes nothing there.
//
// no-silent-rollback: a log does not get shorter, and does not vanish. A store that
// shows an older state than it showed this process before is refused.
//
// Its only lock protects the table of the generations that were seen; it is held
// over no I/O and no other lock. Any goroutine may call.
package catalog
