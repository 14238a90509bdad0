//go:build !linux

package socket

import (
	"syscall"
	"time"
)

// HungUp tells whether we have closed the socket ourselves: how to ask about
// the peer without reading is known for Linux only.
func HungUp(raw syscall.RawConn) bool {
	return raw.Control(func(uintptr) {}) != nil
}

// Unsent would return how many bytes the peer has yet to take of what was
// written to a socket.
func Unsent(syscall.RawConn) int { return 0 }

// SetUserTimeout would bound how long data may be unacknowledged.
func SetUserTimeout(syscall.RawConn, time.Duration) {}

// OpenFiles would return how many files the process may have open.
func OpenFiles() uint64 { return 0 }
