package cache

import (
	"bytes"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/pack"
)

// scratch is reused memory for an entry, and for whole pages around a range that begins
// or ends within a page.
type scratch struct {
	entry [entryHead + maxClass/pageSize*4]byte
	pages []byte
	page  [pageSize]byte // an opened one, of which a part is wanted
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// found is the result of a read from the SSD tier.
type found int

const (
	absent  found = iota // the block is not here, or the disk failed to read it
	slow                 // it may be here, but not in the kernel's page cache
	damaged              // it does not match its page checksums
	whole                // the bytes were read and verified
)

// read fills p from byte off of a block of n bytes. It reads and verifies the pages that
// it needs. If wait is false, it takes them only from the kernel's page cache.
func (d *disk) read(h *pack.Hash, n int, p []byte, off int, wait bool) found {
	at, ok := d.find(h, n)
	if !ok {
		return absent
	}
	defer at.done()
	if at.fd < 0 && !wait {
		return slow
	}
	first, last := off&^(pageSize-1), min((off+len(p)+pageSize-1)&^(pageSize-1), n)
	var buf *scratch
	if at.table == nil || first != off || last != off+len(p) || d.local != nil {
		buf = scratchPool.Get().(*scratch)
		defer scratchPool.Put(buf)
	}
	entry, got := at.entry(buf, wait)
	if got != whole {
		return got
	}
	if !bytes.Equal(entry[:len(h)], h[:]) {
		return absent // another block with the same key
	}
	if d.local != nil {
		return at.readSealed(h, p, off, first, last, wait, buf)
	}
	pages := p
	if first != off || last != off+len(p) {
		pages = buf.room(last - first)
	}
	if got := at.fill(pages, at.at()+int64(first), wait); got != whole {
		return got
	}
	if !matches(entry, h, first/pageSize, pages) && !fault.Is("cache-not-verified") {
		return damaged
	}
	if len(pages) > 0 && len(p) > 0 && &pages[0] != &p[0] {
		copy(p, pages[off-first:])
	}
	return whole
}

// readSealed is read for the pages from first to last of a sealed block.
func (p place) readSealed(h *pack.Hash, b []byte, off, first, last int, wait bool, buf *scratch) found {
	stored := buf.room(p.stored(last - first))
	if got := p.fill(stored, p.at()+int64(p.stored(first)), wait); got != whole {
		return got
	}
	if !p.open(b, h, first/pageSize, off-first, stored, buf) && !fault.Is("cache-not-verified") {
		return damaged
	}
	return whole
}

// room returns n bytes of scratch memory.
func (s *scratch) room(n int) []byte {
	if cap(s.pages) < n {
		s.pages = make([]byte, n)
	}
	return s.pages[:n]
}

// entry returns the slot's entry. It is read into buf unless the table is in memory.
func (p place) entry(buf *scratch, wait bool) ([]byte, found) {
	n := p.entrySize(p.size)
	if p.table != nil {
		return p.table[p.i*n:][:n], whole
	}
	entry := buf.entry[:n]
	if got := p.fill(entry, p.entryAt(), wait); got != whole {
		return nil, got
	}
	if _, _, ok := p.decodeEntry(entry, p.size); !ok {
		return nil, damaged
	}
	return entry, whole
}

// fill reads from the slab's file.
func (s *slab) fill(p []byte, off int64, wait bool) found {
	if wait {
		if _, err := s.file.ReadAt(p, off); err != nil {
			return absent
		}
		return whole
	}
	if !readCached(s.fd, p, off) {
		return slow
	}
	return whole
}

// readCached fills p from off if all of it is in the kernel's page cache.
func readCached(fd int, p []byte, off int64) bool {
	if len(p) == 0 {
		return true
	}
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	n, _, errno := syscall.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	return errno == 0 && int(n) == len(p)
}

// willNeed starts to bring a block into the page cache, and reports whether the tier has
// it.
func (d *disk) willNeed(h *pack.Hash, n int) bool {
	at, ok := d.find(h, n)
	if !ok {
		return false
	}
	defer at.done()
	_ = at.file.Prefetch(at.at(), int64(at.stored(n))) // a hint
	return true
}
