package wal

// prepareAt returns the position in a segment at which the next one is prepared. It is
// early, because on a busy disk the syncs for it can take as long as the rest of the
// segment takes to fill. It is not at the start, because many volumes write little. In
// short segments, which only the first writes of a volume fill, it is late for the same
// reason.
func (s *Segment) prepareAt() uint32 {
	if s.size < 16<<20 {
		return s.size / 4 * 3
	}
	return s.size / 8
}

type prepared struct {
	seg *Segment
	err error
}

// prepare prepares the next segment in the background.
func (l *Log) prepare() {
	ch := make(chan prepared, 1)
	l.next = ch
	size := l.nextSize()
	l.taken += uint64(size)
	go func() {
		seg, err := l.ready(size)
		ch <- prepared{seg, err}
	}()
}

// nextSize returns the size of the next segment: as much as the log has taken so far, or
// what is needed.
func (l *Log) nextSize() uint32 {
	n := max(l.taken, l.need, uint64(l.pool.opts.FirstBytes))
	return l.pool.sizeFor(n - min(n, 2*pageSize))
}

// ready takes a segment and durably adds it to the log.
func (l *Log) ready(size uint32) (*Segment, error) {
	seg, err := l.pool.take(kindLog, l.writer, size)
	if err != nil {
		return nil, err
	}
	seg.Hold() // the log's own hold, until the segment is rotated, synced and indexed
	seg.logHeld.Store(true)
	if err := l.attach(seg); err != nil {
		seg.releaseLog()
		seg.Release()
		return nil, err
	}
	return seg, nil
}

// reserve prepares n segments, or as many as it can.
func (l *Log) reserve(n int) error {
	for len(l.reserved) < n {
		if l.next == nil {
			l.prepare()
		}
		p := <-l.next
		l.next = nil
		if p.err != nil {
			// The earlier attempt failed. Space may have been freed since.
			if p.seg, p.err = l.ready(l.nextSize()); p.err != nil {
				return p.err
			}
		}
		l.reserved = append(l.reserved, p.seg)
	}
	return nil
}

// dropReserved gives up the prepared segments.
func (l *Log) dropReserved() {
	if l.next != nil {
		if p := <-l.next; p.err == nil {
			l.reserved = append(l.reserved, p.seg)
		}
		l.next = nil
	}
	for _, s := range l.reserved {
		s.releaseLog()
	}
	l.reserved = nil
}

// dropShort drops the prepared segments that are shorter than n bytes. They stay with the
// volume, empty, until they are cleaned.
func (l *Log) dropShort(n uint64) error {
	l.need = max(l.need, min(n, uint64(l.pool.opts.SegmentBytes)))
	if l.next != nil {
		if err := l.reserve(len(l.reserved) + 1); err != nil {
			return err
		}
	}
	long := l.reserved[:0]
	for _, s := range l.reserved {
		if uint64(s.size) >= n {
			long = append(long, s)
		} else {
			s.releaseLog()
		}
	}
	l.reserved = long
	return nil
}

// rotate continues the log in another segment, of n bytes or more. The old one stays in
// unsynced until it is synced, which happens before any flush is acknowledged from the
// new one.
func (l *Log) rotate(n uint64) error {
	if err := l.reserve(1); err != nil {
		return err
	}
	if uint64(l.reserved[0].size) < n {
		if err := l.dropShort(n); err != nil {
			return err
		}
		if err := l.reserve(1); err != nil {
			return err
		}
	}
	seg := l.reserved[0]
	l.reserved = l.reserved[1:]
	l.retire()
	l.cur, l.pos, l.index, l.indexed = seg, pageSize, nil, 0
	l.need = 0
	return nil
}

// retire ends the current segment.
func (l *Log) retire() {
	if l.cur != nil {
		l.cur.end.Store(l.wrote)
		l.cur.full = fullSegment{l.index[:l.indexed], l.pos}
		l.index, l.indexed = nil, 0
		l.cur.trimSums()
		l.unsynced = append(l.unsynced, l.cur)
		l.cur = nil
	}
}

// Rotate ends the current segment, so that later records go to another one.
func (l *Log) Rotate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pos > pageSize {
		l.retire()
	}
}

// Close syncs and indexes what was appended, and releases the log's own holds on its
// segments. Nothing may be appended afterwards.
func (l *Log) Close() error {
	l.Rotate()
	err := l.Sync()
	l.indexing.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropReserved()
	for _, s := range append(l.unsynced, l.cur) {
		if s != nil {
			if err == nil {
				// Everything was durable before the rotation, so no sync has indexed this
				// segment.
				_ = s.finish()
			}
			s.releaseLog()
		}
	}
	l.unsynced, l.cur = nil, nil
	return err
}
