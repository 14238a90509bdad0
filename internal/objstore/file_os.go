package objstore

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// osFiles is the machine's file system.
type osFiles struct{}

func (osFiles) Create(name string) (writeFile, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func (osFiles) Open(name string) (readFile, error) { return os.Open(name) }

func (osFiles) Link(oldname, newname string) error { return os.Link(oldname, newname) }

func (osFiles) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

// Remove is not os.Remove, which removes empty directories, too.
func (osFiles) Remove(name string) error {
	for {
		err := syscall.Unlink(name)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &fs.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
}

func (osFiles) Mkdir(name string) error { return os.Mkdir(name, 0o755) }

func (osFiles) MkdirAll(name string) error { return os.MkdirAll(name, 0o755) }

func (osFiles) SyncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

// ReadDir is not os.ReadDir, which sorts: the driver has an order of its own.
func (osFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return dir.ReadDir(-1)
}

func (osFiles) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// fileVersion is the version of a file. A file that replaces another exists beside it first,
// so it has another inode; and when an inode is used again, time has passed.
func fileVersion(in fs.FileInfo) string {
	if st, ok := in.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(st.Ino, 36) + "." + strconv.FormatInt(st.Ctim.Nano(), 36)
	}
	return ""
}

func sameFile(a, b fs.FileInfo) bool { return os.SameFile(a, b) }
