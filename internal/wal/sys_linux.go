package wal

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pwritev writes the pieces one after the other at off. A short write is
// reported by the count, as by the system call.
func pwritev(fd int, iov []unix.Iovec, off int64) (int, error) {
	for {
		n, _, errno := syscall.Syscall6(unix.SYS_PWRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
			uintptr(off), 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}

// preadv2 fills the pieces one after the other from pos. A short read is
// reported by the count, as by the system call.
func preadv2(fd int, iov []unix.Iovec, pos uint32, flags int) (uint32, syscall.Errno) {
	n, _, errno := syscall.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
		uintptr(pos), 0, uintptr(flags))
	return uint32(n), errno
}
