//go:build !linux

package nbd

import (
	"syscall"
	"time"
)

// hungUp tells whether we have closed the socket ourselves: how to ask about
// the peer without reading is known for Linux only.
func hungUp(raw syscall.RawConn) bool {
	return raw.Control(func(uintptr) {}) != nil
}

// unsent would return how many bytes the peer has yet to take of what was
// written to a socket.
func unsent(syscall.RawConn) int { return 0 }

// setUserTimeout would bound how long data may be unacknowledged.
func setUserTimeout(syscall.RawConn, time.Duration) {}

// openFiles would return how many files the process may have open.
func openFiles() uint64 { return 0 }
