package wal

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pwritev writes the parts in order at off. Like the system call, it reports a short
// write by its count.
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

// preadv2 fills the parts in order from pos. Like the system call, it reports a short
// read by its count.
func preadv2(fd int, iov []unix.Iovec, pos uint32, flags int) (uint32, syscall.Errno) {
	n, _, errno := syscall.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
		uintptr(pos), 0, uintptr(flags))
	return uint32(n), errno
}
