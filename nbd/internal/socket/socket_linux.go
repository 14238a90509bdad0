// Package socket asks the kernel what package net does not tell of a socket.
package socket

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HungUp tells whether the peer of a socket has closed it, even when there is
// data from it that nobody has read yet. It does not wait.
func HungUp(raw syscall.RawConn) bool {
	gone := false
	err := raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds[:], 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil // an error: we have closed it ourselves
}

// SetUserTimeout bounds how long data may be unacknowledged.
func SetUserTimeout(raw syscall.RawConn, d time.Duration) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// OpenFiles is how many files the process may have open, 0 if that is not known.
func OpenFiles() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return limit.Cur
}

// Unsent returns how many bytes the peer has yet to take of what was written to
// a socket, or to acknowledge.
func Unsent(raw syscall.RawConn) (n int) {
	if raw == nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	return n
}
