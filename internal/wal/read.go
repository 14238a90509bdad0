package wal

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal/internal/cipher"
	"github.com/paraglide/glide/internal/wal/internal/vectored"
)

// maxGap is the longest gap between two places that one read bridges: a record header and
// the padding of the record before it.
const maxGap = HeaderSize + ivSize + 3

// gapSink receives the bytes of gaps, which are not used.
var gapSink [maxGap + 1]byte

// aroundBytes is the memory for bytes that are read only for verification: record headers
// and the rest of pieces.
const aroundBytes = 32 << 10

// vector is a group of neighbouring places that one system call reads.
type vector struct {
	seg    *Segment
	pos    uint32 // position of the first byte
	end    uint32
	iov    []unix.Iovec
	spans  []wanted
	around []byte // its length is what is in use
	sealed []ciphertext
}

// ciphertext is what a read has to decrypt once it has all bytes.
type ciphertext struct {
	cipher *cipher.Cipher
	b      []byte
	pos    uint32
}

// decrypt decrypts what was read, all of it: the caller has no more to read or to verify.
func (v *vector) decrypt() {
	for i := range v.sealed {
		v.sealed[i].cipher.Open(v.sealed[i].b, v.sealed[i].pos, HeaderSize+ivSize)
	}
}

// wants notes that b, of what is at pos, has to be decrypted.
func (v *vector) wants(seg *Segment, b []byte, pos uint32) {
	if seg.cipher != nil {
		v.sealed = append(v.sealed, ciphertext{seg.cipher, b, pos})
	}
}

// wanted is a span and the memory for its bytes.
type wanted struct {
	span
	head, body, tail []byte
	off              uint64 // offset of body on the volume
}

var vectors = sync.Pool{New: func() any { return &vector{around: make([]byte, 0, aroundBytes)} }}

// ReadExtents fills the parts of b, which begins at offset off of the volume, that the
// extents cover. It reads places that are neighbours in the log in one call. The caller
// holds the segments.
//
// verified: bytes that do not match their checksum are an error of kind errs.Corrupt. The
// content of b must not be used then.
func (p *Pool) ReadExtents(b []byte, off uint64, extents []extent.Extent) error {
	_, err := p.readVerified(b, off, extents, false)
	return err
}

// ServeExtents is ReadExtents for a guest. It does not verify bytes that are in memory as
// they were written.
func (p *Pool) ServeExtents(b []byte, off uint64, extents []extent.Extent) error {
	if p.readTrusted(b, off, extents) {
		return nil
	}
	err := p.ReadExtents(b, off, extents)
	if err == nil {
		p.served(extents)
	}
	return err
}

// TryServeExtents is ServeExtents if the bytes are in memory. It reports whether it
// filled them.
func (p *Pool) TryServeExtents(b []byte, off uint64, extents []extent.Extent) bool {
	if p.readTrusted(b, off, extents) {
		return true
	}
	done, err := p.readVerified(b, off, extents, true)
	if !done || err != nil {
		return false
	}
	p.served(extents)
	return true
}

// served counts bytes that were verified for a guest.
func (p *Pool) served(extents []extent.Extent) {
	for _, e := range extents {
		if e.Place != extent.Zero {
			p.Segment(e.Place).servedVerified(int(e.Len()))
		}
	}
}

// readTrusted fills b if no part of it needs verification.
func (p *Pool) readTrusted(b []byte, off uint64, extents []extent.Extent) bool {
	v := vectors.Get().(*vector)
	defer vectors.Put(v)
	v.reset()
	v.sealed = v.sealed[:0]
	for _, e := range extents {
		dst := b[e.Start-off : e.End-off]
		if e.Place == extent.Zero {
			clear(dst)
			continue
		}
		seg, pos := p.Segment(e.Place), uint32(e.Place)
		if !seg.trusted() {
			return false
		}
		if len(v.iov) > 0 && (v.seg != seg || pos < v.end || pos-v.end > maxGap || len(v.iov)+2 > maxIov) {
			if _, own := v.seg.readMemory(v.iov, v.pos, v.end-v.pos); !own {
				return false
			}
			v.iov = v.iov[:0]
		}
		v.bridge(seg, pos)
		v.take(dst)
		v.wants(seg, dst, pos)
	}
	if len(v.iov) > 0 {
		if _, own := v.seg.readMemory(v.iov, v.pos, v.end-v.pos); !own {
			return false
		}
	}
	v.decrypt()
	return true
}

// readVerified fills b and reports whether it did. With nowait it reads only from memory.
func (p *Pool) readVerified(b []byte, off uint64, extents []extent.Extent, nowait bool) (done bool, err error) {
	v := vectors.Get().(*vector)
	defer vectors.Put(v)
	v.reset()
	v.sealed = v.sealed[:0]
	for _, e := range extents {
		dst := b[e.Start-off : e.End-off]
		if e.Place == extent.Zero {
			clear(dst)
			continue
		}
		seg, pos := p.Segment(e.Place), uint32(e.Place)
		if seg.unchecked.Load() != nil {
			if nowait {
				return false, nil
			}
			if err := seg.check(pos, uint32(len(dst))); err != nil {
				return true, err
			}
		}
		sp, ok := seg.span(pos, uint32(len(dst)))
		if !ok {
			return true, seg.mismatchAt(pos, pos+uint32(len(dst)), e.Start, e.Len())
		}
		if !v.fits(seg, &sp, len(dst)) {
			if done, err = v.read(nowait); !done || err != nil {
				return done, err
			}
		}
		v.add(seg, wanted{span: sp, body: dst, off: e.Start}, pos)
		v.wants(seg, dst, pos)
	}
	if done, err = v.read(nowait); done && err == nil {
		v.decrypt()
	}
	return done, err
}

func (v *vector) reset() { v.iov, v.spans, v.around = v.iov[:0], v.spans[:0], v.around[:0] }

// bridge starts the vector at pos, or adds the gap between its end and pos.
func (v *vector) bridge(seg *Segment, pos uint32) {
	if len(v.iov) == 0 {
		v.seg, v.pos, v.end = seg, pos, pos
	} else if gap := pos - v.end; gap > 0 {
		v.iov = append(v.iov, unix.Iovec{Base: &gapSink[0], Len: uint64(gap)})
		v.end = pos
	}
}

// take adds memory for bytes to the vector.
func (v *vector) take(b []byte) {
	if len(b) > 0 {
		v.iov = append(v.iov, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
		v.end += uint32(len(b))
	}
}

// fits reports whether a span can be read together with those in the vector.
func (v *vector) fits(seg *Segment, sp *span, n int) bool {
	if len(v.spans) == 0 {
		return true
	}
	return v.seg == seg && sp.from >= v.end && sp.from-v.end <= maxGap && len(v.iov)+4 <= maxIov &&
		len(v.around)+int(sp.to-sp.from)-n <= cap(v.around)
}

// add adds a span, whose body lies at pos, to the vector. The caller has checked that it
// fits.
func (v *vector) add(seg *Segment, w wanted, pos uint32) {
	v.bridge(seg, w.from)
	w.head = v.room(pos - w.from)
	w.tail = v.room(w.to - pos - uint32(len(w.body)))
	v.take(w.head)
	v.take(w.body)
	v.take(w.tail)
	v.spans = append(v.spans, w)
}

// room returns n bytes of memory for what surrounds a body.
func (v *vector) room(n uint32) []byte {
	at := len(v.around)
	v.around = v.around[:at+int(n)]
	return v.around[at:]
}

// read reads the vector, verifies the bytes, and empties it.
func (v *vector) read(nowait bool) (done bool, err error) {
	if len(v.spans) == 0 {
		return true, nil
	}
	defer v.reset()
	if done, err = v.fill(nowait); !done || err != nil {
		return done, err
	}
	for i := range v.spans {
		w := &v.spans[i]
		if !w.matches(w.head, w.body, w.tail) {
			if nowait {
				return false, nil // the slow path reports it
			}
			return true, v.seg.mismatchAt(w.from, w.to, w.off, uint64(len(w.body)))
		}
	}
	return true, nil
}

// fill reads the vector's bytes and reports whether it did. With nowait it reads only
// from memory.
func (v *vector) fill(nowait bool) (done bool, err error) {
	seg, pos := v.seg, v.pos
	if seg.fd >= 0 { // else it is an in-memory file system
		if ok, _ := seg.readMemory(v.iov, pos, v.end-pos); ok || nowait {
			return ok, nil
		}
		seg.strays.Add(1)
		if n, errno := vectored.Read(seg.fd, v.iov, pos, 0); errno == 0 && n == v.end-pos {
			return true, nil
		}
	}
	for _, one := range v.iov { // this also completes a short read, and returns its error
		if err := seg.readAt(unsafe.Slice(one.Base, one.Len), pos); err != nil {
			return true, err
		}
		pos += uint32(one.Len)
	}
	return true, nil
}
