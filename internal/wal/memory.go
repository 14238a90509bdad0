package wal

import "golang.org/x/sys/unix"

// Guests read mostly what was just written, and that is in the page cache as it
// was written: only the disk makes bytes rot. To verify it costs a fifth of a
// long read's time. So a guest's read that finds all of its bytes in memory, in a
// segment of which nothing has come from the disk, takes them as they are; every
// other read is verified.
//
// What has come from the disk is known without asking the kernel: all reads of
// segments are made here. One that may not wait for the disk (RWF_NOWAIT) has
// found everything in memory, or else it, or the one that follows and may wait,
// makes the kernel fetch what is missing, and more. The segment counts a stray
// then, and guests' reads of it are verified, until all of it was verified and no
// other read has strayed meanwhile. That is done in the background once guests' reads
// have verified as many bytes as the segment has, so it at most doubles the work.
//
// A read that does not wait may start to fetch too, and its bytes may be there
// before it has counted its stray. So one that took bytes as they are looks
// afterwards whether it was alone (Segment.reading) and whether there were
// strays, in this order: if another read is still under way, it cannot tell, and
// verifies.
//
// Not covered is what the kernel fetches for others: for a program that reads
// the file beside this one, and for an append that begins in a page which it has
// dropped from memory since the append before. What leaves the log is verified in
// any case.

// trusted tells whether nothing of the segment has come from the disk.
func (s *Segment) trusted() bool { return s.fd >= 0 && s.strays.Load() == 0 }

// readMemory reads into the vector's pieces what is in memory; ok tells that all
// of it was, and own that all of it is what this program wrote.
func (s *Segment) readMemory(iov []unix.Iovec, pos, n uint32) (ok, own bool) {
	s.reading.Add(1)
	got, errno := preadv2(s.fd, iov, pos, unix.RWF_NOWAIT)
	ok = errno == 0 && got == n
	if !ok {
		s.strays.Add(1)
	}
	alone := s.reading.Load() == 1
	own = ok && alone && s.strays.Load() == 0
	s.reading.Add(-1)
	return ok, own
}

// verifying is called before all of the segment is verified; what it returns is
// called when nothing was found, and makes guests' reads cheap again, if no other
// read strayed meanwhile.
func (s *Segment) verifying() (done func() bool) {
	n := s.strays.Add(1)
	return func() bool { return s.strays.CompareAndSwap(n, 0) }
}

// servedVerified counts what was verified for a guest. The caller holds the segment.
func (s *Segment) servedVerified(n int) {
	if s.fd < 0 || s.verified.Add(uint64(n)) < uint64(s.size) {
		return
	}
	s.verified.Store(0)
	s.Hold()
	select {
	case s.pool.doubted <- s:
	default:
		s.Release() // another one is being verified; it is tried again
	}
}

// keepTrust verifies segments that guests read much of.
func (p *Pool) keepTrust() {
	defer p.filled.Done()
	for {
		select {
		case s := <-p.doubted:
			_ = s.Verify() // whoever reads what is damaged meets it
			s.Release()
		case <-p.stop:
			return
		}
	}
}
