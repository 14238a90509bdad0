package wal

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/extent"
)

// maxGap is the longest stretch between two places that one read bridges: a
// record header, with the bytes that align the record before it.
const maxGap = HeaderSize + 3

// gapSink takes the bytes in between; nobody looks at it.
var gapSink [maxGap + 1]byte

// vector is one system call's worth of adjacent places.
type vector struct {
	seg *Segment
	pos uint32 // of the first byte
	end uint32
	iov []unix.Iovec
}

var vectors = sync.Pool{New: func() any { return new(vector) }}

// ReadExtents fills the parts of p, which begins at offset off of the volume,
// that the extents cover. Places that are neighbours in the log are read in one
// call. The caller holds the segments.
func (p *Pool) ReadExtents(b []byte, off uint64, extents []extent.Extent) error {
	_, err := p.readExtents(b, off, extents, false)
	return err
}

// TryReadExtents is ReadExtents when the bytes are in memory; it reports
// whether it filled them.
func (p *Pool) TryReadExtents(b []byte, off uint64, extents []extent.Extent) bool {
	done, err := p.readExtents(b, off, extents, true)
	return done && err == nil
}

func (p *Pool) readExtents(b []byte, off uint64, extents []extent.Extent, nowait bool) (done bool, err error) {
	v := vectors.Get().(*vector)
	defer vectors.Put(v)
	v.iov = v.iov[:0]
	for _, e := range extents {
		dst := b[e.Start-off : e.End-off]
		if e.Place == extent.Zero {
			clear(dst)
			continue
		}
		pos := uint32(e.Place)
		if len(v.iov) > 0 && (v.seg.number != NumberOf(e.Place) || pos < v.end || pos-v.end > maxGap || len(v.iov)+2 > maxIov) {
			if done, err = v.read(nowait); !done || err != nil {
				return done, err
			}
		}
		v.add(p, dst, e.Place)
	}
	return v.read(nowait)
}

// add puts one more piece into the vector; the caller saw that it fits.
func (v *vector) add(p *Pool, dst []byte, pl extent.Place) {
	pos := uint32(pl)
	if len(v.iov) == 0 {
		v.seg, v.pos = p.Segment(pl), pos
	} else if gap := pos - v.end; gap > 0 {
		v.iov = append(v.iov, unix.Iovec{Base: &gapSink[0], Len: uint64(gap)})
	}
	v.iov = append(v.iov, unix.Iovec{Base: unsafe.SliceData(dst), Len: uint64(len(dst))})
	v.end = pos + uint32(len(dst))
}

// read performs the vector and empties it.
func (v *vector) read(nowait bool) (done bool, err error) {
	if len(v.iov) == 0 {
		return true, nil
	}
	iov, pos, seg := v.iov, v.pos, v.seg
	v.iov = v.iov[:0]
	if seg.unchecked.Load() != nil {
		if nowait {
			return false, nil
		}
		if err := seg.check(pos, v.end-pos); err != nil {
			return true, err
		}
	}
	if seg.fd < 0 {
		for _, one := range iov {
			if err := seg.readAt(unsafe.Slice(one.Base, one.Len), pos); err != nil {
				return true, err
			}
			pos += uint32(one.Len)
		}
		return true, nil
	}
	flags := 0
	if nowait {
		flags = unix.RWF_NOWAIT
	}
	n, _, errno := syscall.Syscall6(unix.SYS_PREADV2, uintptr(seg.fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
		uintptr(pos), 0, uintptr(flags))
	if errno == 0 && uint32(n) == v.end-pos {
		return true, nil
	}
	if nowait {
		return false, nil
	}
	for _, one := range iov { // the slow way finds out what is wrong, or finishes a short read
		if err := seg.readAt(unsafe.Slice(one.Base, one.Len), pos); err != nil {
			return true, err
		}
		pos += uint32(one.Len)
	}
	return true, nil
}
