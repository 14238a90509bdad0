package crowd

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readable waits in the thread, not in the runtime's poller, until a socket can be read or
// has ended. The socket is not closed meanwhile.
func readable(raw syscall.RawConn, d time.Duration) bool {
	ready := false
	err := raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds[:], int(d.Milliseconds()))
		ready = n > 0 || err != nil && err != unix.EINTR
	})
	return ready || err != nil
}

// processTime is the processor time that the process has used.
func processTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
