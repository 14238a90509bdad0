package datadir

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// noCOW is the attribute of a file that is overwritten in place, FS_NOCOW_FL of
// linux/fs.h.
const noCOW = 0x0080_0000

// OverwriteInPlace makes files that are made in a directory from now on keep their
// place on the disk when they are overwritten, where the file system copies on write
// (btrfs): what was written once, to be there, must not need room again. The
// checksums that it goes without are our own. Other file systems do so anyway, or
// cannot; so there is no error.
func OverwriteInPlace(fs vfs.FS, dir string) {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return
	}
	defer func() { _ = d.Close() }()
	fd := d.Fd()
	if fd == vfs.InvalidFd {
		return
	}
	flags, err := unix.IoctlGetUint32(int(fd), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&noCOW != 0 {
		return
	}
	_ = unix.IoctlSetPointerInt(int(fd), unix.FS_IOC_SETFLAGS, int(flags|noCOW))
}
