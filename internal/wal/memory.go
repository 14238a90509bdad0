package wal

import (
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/wal/internal/vectored"
)

// Guests mostly read what was just written. That is still in the page cache, and only the
// disk can damage bytes. Verification takes a fifth of the time of a long read. So if a
// guest's read finds all of its bytes in memory, in a segment of which nothing has come
// from the disk, it takes them unverified. Every other read is verified.
//
// All reads of segments are made here. One that may not wait for the disk (RWF_NOWAIT)
// fails if something is missing in memory. But first it makes the kernel fetch that, and
// more, and if this is done at once, it succeeds. So the kernel is asked before
// (cachestat) whether all is there. If not, or if it cannot say, the segment counts a
// stray, and guests' reads of it are verified. That ends when the whole segment was
// verified without another stray meanwhile. This happens in the background, once guests'
// reads have verified as many bytes as the segment has. So it at most doubles the work.
//
// A read that does not wait may also start a fetch, and the fetched bytes may arrive
// before it has counted its stray. So a read that took bytes unverified checks two things
// afterwards, in this order: that no other read was in progress (Segment.reading), and
// that there were no strays. If another read is still in progress, it cannot know, and
// verifies.
//
// Two cases are not covered. One is what the kernel fetches for others: a program that
// reads the file at the same time, and an append that begins in a page which the kernel
// has dropped from memory since the append before. The other is a page that the kernel
// drops after it said that it is there, and fetches again before the read that follows at
// once looks. What leaves the log is verified in any case.

// trusted reports whether nothing of the segment has come from the disk.
func (s *Segment) trusted() bool { return s.fd >= 0 && s.strays.Load() == 0 }

// readMemory reads what is in memory into the parts of iov. ok is true if all of it was
// in memory, and own is true if all of it is as this program wrote it.
func (s *Segment) readMemory(iov []unix.Iovec, pos, n uint32) (ok, own bool) {
	s.reading.Add(1)
	there := vectored.Cached(s.fd, pos, n)
	got, errno := vectored.Read(s.fd, iov, pos, unix.RWF_NOWAIT)
	ok = errno == 0 && got == n
	if !ok || !there {
		s.strays.Add(1)
	}
	alone := s.reading.Load() == 1
	own = ok && alone && s.strays.Load() == 0
	s.reading.Add(-1)
	return ok, own
}

// verifying is called before the whole segment is verified. If no damage was found, the
// caller calls done. done makes guests' reads cheap again and returns true, unless
// another read strayed meanwhile.
func (s *Segment) verifying() (done func() bool) {
	n := s.strays.Add(1)
	return func() bool { return s.strays.CompareAndSwap(n, 0) }
}

// servedVerified counts bytes that were verified for a guest. The caller holds the
// segment.
func (s *Segment) servedVerified(n int) {
	if s.fd < 0 || !vectored.Tells() || s.verified.Add(uint64(n)) < uint64(s.size) {
		return
	}
	s.verified.Store(0)
	s.Hold()
	select {
	case s.pool.doubted <- s:
	default:
		s.Release() // another segment is being verified; a later read tries again
	}
}

// keepTrust verifies segments of which guests read much.
func (p *Pool) keepTrust() {
	defer p.filled.Done()
	for {
		select {
		case s := <-p.doubted:
			_ = s.Verify() // a read of the damage will report it
			s.Release()
		case <-p.stop:
			return
		}
	}
}
