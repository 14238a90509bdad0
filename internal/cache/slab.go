package cache

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// # Slab file, version 2
//
// A slab holds raw blocks of one size class in slots of that size. All integers
// are little-endian.
//
//	 0  4  magic "GLDS"
//	 4  4  version, 2
//	 8  4  slot size, bytes: a power of two from 4 KiB to 1 MiB
//	12  4  number of slots
//	16  4  CRC32C of bytes 0 to 15
//	64 …   one entry for each slot:
//	          0 32  hash of the block; all zero: the slot is empty
//	         32  4  length of the block
//	         36  4  CRC32C of bytes 0 to 35 and of the page sums
//	         40 …   page sums: CRC32C of each 4 KiB page of the block, the last of which
//	                may be shorter; 0 for pages behind its end. The sum of page i begins
//	                with bytes 8 to 11 of the hash, plus i, in place of 0: a page of
//	                another block, or of another place in it, does not match.
//	       Entries are padded to a multiple of 8 bytes.
//	…      the slots, from a multiple of 4096 on
//
// Magic, version and checksum have the same place in every version; sealed.go has version
// 3. Nothing in a slab is
// ever synced: an entry may reach the disk before its block, or be there when the block
// is gone. A block matched its hash when its page sums were computed, and everything that
// is read is verified against them. Version 1 had no page sums; its slabs are removed,
// and the cache fills again.
const (
	slabMagic   = "GLDS"
	slabVersion = 2
	slabHeader  = 64
	entryHead   = 40
	pageSize    = 4 << 10
	minClass    = 4 << 10
	maxClass    = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func readSlab(f io.ReaderAt) (size int, how form, table []byte, err error) {
	head := make([]byte, slabHeader)
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, how, nil, err
	}
	if string(head[:4]) != slabMagic {
		return 0, how, nil, errs.New(errs.Corrupt, "not a slab: no magic at its start")
	}
	if crc32.Checksum(head[:16], castagnoli) != binary.LittleEndian.Uint32(head[16:]) {
		return 0, how, nil, errs.New(errs.Corrupt, "the slab's header does not match its checksum")
	}
	switch v := binary.LittleEndian.Uint32(head[4:]); {
	case v < slabVersion:
		return 0, how, nil, errs.New(errs.Corrupt, "the slab's format is version %d, which has no page sums", v)
	case v > sealedVersion:
		return 0, how, nil, errs.New(errs.Unsupported, "the slab's format is version %d, this program knows up to %d: use a newer glide", v, sealedVersion)
	}
	size = int(binary.LittleEndian.Uint32(head[8:]))
	if size == 0 || classOf(size) != size {
		return 0, how, nil, errs.New(errs.Corrupt, "the slab's slots have %d bytes, which is no size class", size)
	}
	n := perSlab(size)
	if int(binary.LittleEndian.Uint32(head[12:])) != n {
		return 0, how, nil, errs.New(errs.Corrupt, "the slab has another number of slots than its size class")
	}
	how, ok := formOf(head)
	if !ok {
		return 0, how, nil, errs.New(errs.Corrupt, "what the slab's header says of its keys does not match its checksum")
	}
	entry := entrySize(size)
	if how != (form{}) {
		entry = entryHead
	}
	table = make([]byte, n*entry)
	if _, err := f.ReadAt(table, slabHeader); err != nil {
		return 0, how, nil, err
	}
	return size, how, table, nil
}

func perSlab(size int) int { return max(1, slabBytes/size) }

// entrySize returns the length of an entry for slots of this size.
func entrySize(size int) int { return (entryHead + size/pageSize*4 + 7) &^ 7 }

// classOf returns the slot size for blocks of n bytes, or 0 if there is none.
func classOf(n int) int {
	if n <= 0 || n > maxClass {
		return 0
	}
	size := minClass
	for size < n {
		size *= 2
	}
	return size
}

// encodeEntry writes the entry of a block, which must match its hash, to b. b must have
// the length of the entry.
func encodeEntry(b []byte, h *pack.Hash, raw []byte) {
	clear(b)
	copy(b, h[:])
	binary.LittleEndian.PutUint32(b[32:], uint32(len(raw)))
	for i := 0; i*pageSize < len(raw); i++ {
		page := raw[i*pageSize : min((i+1)*pageSize, len(raw))]
		binary.LittleEndian.PutUint32(b[entryHead+4*i:], pageSum(h, i, page))
	}
	binary.LittleEndian.PutUint32(b[36:], entrySum(b))
}

// decodeEntry returns the hash and the length of the block that an entry names.
func decodeEntry(b []byte) (h pack.Hash, n int, ok bool) {
	copy(h[:], b)
	n = int(binary.LittleEndian.Uint32(b[32:]))
	ok = h != pack.Hash{} && n > 0 && (n+pageSize-1)/pageSize*4 <= len(b)-entryHead && entrySum(b) == binary.LittleEndian.Uint32(b[36:])
	return h, n, ok
}

func entrySum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:36], castagnoli), castagnoli, b[entryHead:])
}

// pageSum returns the checksum of page i of a block.
func pageSum(h *pack.Hash, i int, page []byte) uint32 {
	return crc32.Update(binary.LittleEndian.Uint32(h[8:])+uint32(i), castagnoli, page)
}

// matches reports whether pages are as they were when the block's entry was written. They
// begin with page first of the block.
func matches(entry []byte, h *pack.Hash, first int, pages []byte) bool {
	for i := first; len(pages) > 0; i++ {
		n := min(pageSize, len(pages))
		if pageSum(h, i, pages[:n]) != binary.LittleEndian.Uint32(entry[entryHead+4*i:]) {
			return false
		}
		pages = pages[n:]
	}
	return true
}
