package cache

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// # Slab file, version 3: sealed
//
// It differs from version 2 in this:
//
//	 4  4  version, 3
//	20 12  with which keys the blocks are sealed, as package seal stores it
//	32 16  random, new in every slab: its key comes from them
//	48  4  CRC32C of bytes 20 to 47
//	entry  bytes 0 to 39 only: there are no page sums
//	slot   the 4 KiB pages of the block, each sealed by itself: nonce, ciphertext, tag
//
// The tag of a page takes the place of its sum. It proves more: the page is that page of the
// block with this hash, and this host sealed it, which it does only with verified blocks. A
// guest's read of a page opens that page, and not the whole block. A slab whose form or keys
// are not those of the host is removed: it is only a cache.
const (
	sealedVersion = 3
	formAt        = 20
	saltAt        = formAt + seal.MarkSize
	formEnd       = saltAt + len(seal.SlabSalt{})
)

// form says with which keys a slab is sealed. The zero form is plain.
type form struct {
	mark seal.Mark
	salt seal.SlabSalt
}

// layout is how the slabs of a host are laid out: plain, or sealed with its keys. That of one
// slab has the keys of it.
type layout struct {
	local *seal.Local
	form  form
	keys  *seal.Slab
}

// of returns the layout of a slab with this form.
func (l layout) of(f form) (layout, error) {
	l.form = f
	if l.local == nil {
		return l, nil
	}
	var err error
	l.keys, err = l.local.Slab(f.mark, f.salt)
	return l, err
}

// fresh returns the layout of a new slab.
func (l layout) fresh() (layout, error) {
	f := form{mark: l.local.Mark()}
	if l.local != nil {
		f.salt = seal.NewSlabSalt()
	}
	return l.of(f)
}

// version returns the version of a slab.
func (l layout) version() uint32 {
	if l.local != nil {
		return sealedVersion
	}
	return slabVersion
}

// overhead returns how many bytes longer a stored page is.
func (l layout) overhead() int {
	if l.local == nil {
		return 0
	}
	return l.local.Mark().Suite.Overhead()
}

// stored returns the length in a slot of n bytes of a block, which begin with a page.
func (l layout) stored(n int) int { return n + (n+pageSize-1)/pageSize*l.overhead() }

// entrySize returns the length of an entry for slots of blocks of this class.
func (l layout) entrySize(size int) int {
	if l.local != nil {
		return entryHead
	}
	return entrySize(size)
}

// slabBase returns the position of the first slot in a slab for blocks of this class.
func (l layout) slabBase(size int) int64 {
	return int64(slabHeader+perSlab(size)*l.entrySize(size)+4095) &^ 4095
}

// slabLen returns the length of a slab for blocks of this class.
func (l layout) slabLen(size int) int64 {
	return l.slabBase(size) + int64(perSlab(size))*int64(l.stored(size))
}

// slabHead returns the first bytes of this slab for blocks of this class.
func (l layout) slabHead(size int) []byte {
	head := make([]byte, slabHeader)
	copy(head, slabMagic)
	binary.LittleEndian.PutUint32(head[4:], l.version())
	binary.LittleEndian.PutUint32(head[8:], uint32(size))
	binary.LittleEndian.PutUint32(head[12:], uint32(perSlab(size)))
	binary.LittleEndian.PutUint32(head[16:], crc32.Checksum(head[:16], castagnoli))
	if l.local != nil {
		l.form.mark.Append(head[formAt:formAt])
		copy(head[saltAt:], l.form.salt[:])
		binary.LittleEndian.PutUint32(head[formEnd:], crc32.Checksum(head[formAt:formEnd], castagnoli))
	}
	return head
}

// formOf returns the form of a slab with this header.
func formOf(head []byte) (f form, ok bool) {
	if binary.LittleEndian.Uint32(head[4:]) != sealedVersion {
		return f, true
	}
	f.mark, ok = seal.ReadMark(head[formAt:])
	f.salt = seal.SlabSalt(head[saltAt:])
	return f, ok && binary.LittleEndian.Uint32(head[formEnd:]) == crc32.Checksum(head[formAt:formEnd], castagnoli)
}

// encodeEntry writes the entry of a block, which must match its hash, to b.
func (l layout) encodeEntry(b []byte, h *pack.Hash, raw []byte) {
	if l.local == nil {
		encodeEntry(b, h, raw)
		return
	}
	copy(b, h[:])
	binary.LittleEndian.PutUint32(b[32:], uint32(len(raw)))
	binary.LittleEndian.PutUint32(b[36:], entrySum(b))
}

// decodeEntry returns the hash and the length of the block that an entry names, in a slot
// for blocks of this class.
func (l layout) decodeEntry(b []byte, size int) (h pack.Hash, n int, ok bool) {
	if l.local == nil {
		return decodeEntry(b)
	}
	return decodeSealed(b, size)
}

// decodeSealed is decodeEntry of a sealed slab.
func decodeSealed(b []byte, size int) (h pack.Hash, n int, ok bool) {
	copy(h[:], b)
	n = int(binary.LittleEndian.Uint32(b[32:]))
	return h, n, h != pack.Hash{} && n > 0 && n <= size && entrySum(b) == binary.LittleEndian.Uint32(b[36:])
}

// seal returns what the slot of a block stores: the block, or its sealed pages in b.
func (l layout) seal(b []byte, h *pack.Hash, raw []byte) []byte {
	if l.local == nil {
		return raw
	}
	b = b[:0]
	for i := uint32(0); len(raw) > 0; i++ {
		n := min(pageSize, len(raw))
		b, raw = l.keys.Seal(b, (*[32]byte)(h), i, raw[:n]), raw[n:]
	}
	return b
}

// open opens stored pages of a block, from page first on, into raw. It reports whether all
// of them are that. raw begins skip bytes behind the beginning of the first page, and may
// end before the end of the last one.
func (l layout) open(raw []byte, h *pack.Hash, first, skip int, stored []byte, buf *scratch) bool {
	for i := uint32(first); len(stored) > 0; i++ {
		n := min(pageSize+l.overhead(), len(stored))
		size := n - l.overhead()
		if skip == 0 && size <= len(raw) {
			if _, err := l.keys.Open(raw[:0:size], (*[32]byte)(h), i, stored[:n]); err != nil {
				return false
			}
			raw = raw[size:]
		} else {
			page, err := l.keys.Open(buf.page[:0], (*[32]byte)(h), i, stored[:n])
			if err != nil {
				return false
			}
			raw = raw[copy(raw, page[skip:]):]
			skip = 0
		}
		stored = stored[n:]
	}
	return true
}
