package boot

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
)

// # Boot list, version 1
//
// What guests read when they boot from an image. All integers are little-endian.
//
//	 0  4  magic "GLDB"
//	 4  4  version, 1
//	 8  4  number of blocks, at most 8,192
//	12  4  how many of them the last boot read
//	16  4  CRC32C of the whole list but these four bytes
//	20 …   8 bytes for each block: its index in the volume. They are in the order in which
//	       guests need them, and none comes twice.
//
// Magic and version have the same place in every version. A list is only a hint.
const (
	listMagic   = "GLDB"
	listVersion = 1
	listHead    = 20
	maxBlocks   = 8192
	maxList     = listHead + 8*maxBlocks
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// list is what guests read when they boot from an image.
type list struct {
	Blocks []uint64 // indexes, in the order of need
	Used   int      // how many of them the last boot read
}

// keyOf returns the key of the list of an image in the store. domain is a name, root the hash
// of the root of the image's block map, in hexadecimal. Every commit with this root has the
// same blocks, so it has the same list.
func keyOf(domain, root string) string { return "t/" + domain + "/boot/" + root }

// IsKey reports whether a key in the store is that of a boot list.
func IsKey(key string) bool {
	parts := strings.Split(key, "/")
	return len(parts) == 4 && parts[0] == "t" && parts[2] == "boot" && isRoot(parts[3])
}

// Dump writes a boot list as text.
func Dump(w io.Writer, raw []byte) error {
	l, err := decode(raw)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "boot list of %d blocks, of which the last boot read %d\n%d\n", len(l.Blocks), l.Used, l.Blocks)
	return err
}

// rootText returns the name of an image: the hash of its map, or "" if all of it is a
// hole.
func rootText(r blockmap.Root) string {
	if r.IsHole() {
		return ""
	}
	return r.Ref.Hash.String()
}

// encode returns the bytes of a list.
func (l *list) encode() []byte {
	b := make([]byte, listHead, listHead+8*len(l.Blocks))
	copy(b, listMagic)
	binary.LittleEndian.PutUint32(b[4:], listVersion)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(l.Blocks)))
	binary.LittleEndian.PutUint32(b[12:], uint32(l.Used))
	for _, idx := range l.Blocks {
		b = binary.LittleEndian.AppendUint64(b, idx)
	}
	binary.LittleEndian.PutUint32(b[16:], listSum(b))
	return b
}

func listSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[listHead:])
}

// decode reads the bytes of a list. Errors have the kind errs.Corrupt or
// errs.Unsupported.
func decode(b []byte) (*list, error) {
	if len(b) < listHead || string(b[:4]) != listMagic {
		return nil, errs.New(errs.Corrupt, "not a boot list: no magic at its start")
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != listVersion {
		return nil, errs.New(errs.Unsupported, "the boot list's format is version %d, this program knows %d", v, listVersion)
	}
	n, used := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if n > maxBlocks || used > n || len(b) != listHead+8*int(n) {
		return nil, errs.New(errs.Corrupt, "a boot list of %d bytes with %d blocks", len(b), n)
	}
	if listSum(b) != binary.LittleEndian.Uint32(b[16:]) {
		return nil, errs.New(errs.Corrupt, "the boot list does not match its checksum")
	}
	l := &list{Blocks: make([]uint64, n), Used: int(used)}
	seen := make(map[uint64]struct{}, n)
	for i := range l.Blocks {
		l.Blocks[i] = binary.LittleEndian.Uint64(b[listHead+8*i:])
		seen[l.Blocks[i]] = struct{}{}
	}
	if len(seen) != len(l.Blocks) {
		return nil, errs.New(errs.Corrupt, "the boot list names a block twice")
	}
	return l, nil
}

// isRoot reports whether text can be the name of an image.
func isRoot(text string) bool {
	_, err := hex.DecodeString(text)
	return err == nil && len(text) == 64
}

// keepShare is the part of a list that a boot must have read for the rest of the list to
// count as unneeded. A guest that only looked at the disk proves nothing.
const keepShare = 4

// learn returns the list after a boot that read these blocks, in this order. Blocks that
// the boot did not read fall out. changed reports whether other blocks are in the list
// now, and much whether so many that other hosts should know.
func (l *list) learn(read []uint64) (next *list, changed, much bool) {
	now := make(map[uint64]struct{}, len(read))
	for _, idx := range read {
		now[idx] = struct{}{}
	}
	next = &list{Blocks: append([]uint64{}, read...), Used: len(read)}
	hits := 0
	var unread []uint64
	for _, idx := range l.Blocks {
		if _, ok := now[idx]; ok {
			hits++
		} else {
			unread = append(unread, idx)
		}
	}
	if hits*keepShare < len(l.Blocks) {
		n := min(len(unread), maxBlocks-len(next.Blocks))
		next.Blocks = append(next.Blocks, unread[:n]...)
	}
	differ := len(l.Blocks) + len(next.Blocks) - 2*(hits+len(next.Blocks)-len(read))
	return next, differ > 0, differ*16 > len(l.Blocks)
}
