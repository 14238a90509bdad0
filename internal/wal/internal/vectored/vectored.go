// Package vectored reads and writes files in parts, with one system call.
package vectored

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Write writes all of the parts in order at pos. It changes iov.
func Write(fd int, iov []unix.Iovec, pos uint32) error {
	for len(iov) > 0 {
		n, err := pwritev(fd, iov, int64(pos))
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			return err
		}
		pos += uint32(n)
		for len(iov) > 0 && uint64(n) >= iov[0].Len {
			n -= int(iov[0].Len)
			iov = iov[1:]
		}
		if n > 0 {
			iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
			iov[0].Len -= uint64(n)
		}
	}
	return nil
}

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

// Read fills the parts in order from pos. Like the system call, it reports a short
// read by its count.
func Read(fd int, iov []unix.Iovec, pos uint32, flags int) (uint32, syscall.Errno) {
	n, _, errno := syscall.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
		uintptr(pos), 0, uintptr(flags))
	return uint32(n), errno
}

// Tells reports whether the kernel can say what is in the page cache: Linux 6.5 can.
var Tells = sync.OnceValue(func() bool {
	return unix.Cachestat(^uint(0), &unix.CachestatRange{}, &unix.Cachestat_t{}, 0) != unix.ENOSYS
})

// Cached reports whether all of n bytes at pos are in the page cache. If the kernel cannot
// say, it reports false.
func Cached(fd int, pos, n uint32) bool {
	first, last := pos/pageSize, (pos+n-1)/pageSize
	of := unix.CachestatRange{Off: uint64(first) * pageSize, Len: uint64(last-first+1) * pageSize}
	var is unix.Cachestat_t
	return n == 0 || Tells() && unix.Cachestat(uint(fd), &of, &is, 0) == nil && is.Cache == of.Len/pageSize
}

// pageSize is the kernel's, on the machines that Glide runs on.
const pageSize = 4096
