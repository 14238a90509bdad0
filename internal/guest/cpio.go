package guest

import (
	"bytes"
	"fmt"
)

// archive is a cpio archive in the format that the kernel unpacks ("newc").
type archive struct {
	buf   bytes.Buffer
	inode int
}

const (
	modeDir  = 0o040755
	modeExec = 0o100755
	modeFile = 0o100644
)

// add appends a file or a directory. Parents have to come first.
func (a *archive) add(name string, mode int, data []byte) {
	a.inode++
	// magic, inode, mode, uid, gid, links, mtime, size, four device numbers, name's length, checksum
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.pad()
	a.buf.Write(data)
	a.pad()
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

// bytes ends the archive. It is padded to 512 bytes, so that another may follow.
func (a *archive) bytes() []byte {
	a.add("TRAILER!!!", 0, nil)
	for a.buf.Len()%512 != 0 {
		a.buf.WriteByte(0)
	}
	return a.buf.Bytes()
}
