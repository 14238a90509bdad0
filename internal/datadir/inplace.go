package datadir

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// noCOW is the attribute of files that are overwritten in place, FS_NOCOW_FL of
// linux/fs.h.
const noCOW = 0x0080_0000

// OverwriteInPlace makes new files in a directory keep their place on the disk when
// they are overwritten, if the file system copies on write (btrfs): space that was
// written in advance must not be needed again. That turns off the file system's
// checksums; Glide has its own. Other file systems overwrite in place anyway, or
// cannot, so there is no error.
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
