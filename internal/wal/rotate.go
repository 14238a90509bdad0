package wal

// prepareAfter is the part of a segment after which the next one is made ready:
// early, since on a busy disk the syncs which that takes can last for as long as
// it takes to fill the rest; not at once, since many volumes write little.
const prepareAfter = 8

type prepared struct {
	seg *Segment
	err error
}

// prepare makes the next segment ready in the background.
func (l *Log) prepare() {
	ch := make(chan prepared, 1)
	l.next = ch
	go func() {
		seg, err := l.ready()
		ch <- prepared{seg, err}
	}()
}

// ready takes a segment and makes it durable that it is part of the log.
func (l *Log) ready() (*Segment, error) {
	seg, err := l.pool.take(kindLog, l.writer)
	if err != nil {
		return nil, err
	}
	seg.Hold() // the log's own, until the segment is rotated, synced and indexed
	seg.logHeld.Store(true)
	if err := l.attach(seg); err != nil {
		seg.releaseLog()
		seg.Release()
		return nil, err
	}
	return seg, nil
}

// reserve makes so many segments ready, or as many as it can.
func (l *Log) reserve(n int) error {
	for len(l.reserved) < n {
		if l.next == nil {
			l.prepare()
		}
		p := <-l.next
		l.next = nil
		if p.err != nil {
			// It was tried when the need came into sight; room may have been made since.
			if p.seg, p.err = l.ready(); p.err != nil {
				return p.err
			}
		}
		l.reserved = append(l.reserved, p.seg)
	}
	return nil
}

// dropReserved gives up the segments that were made ready.
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

// rotate goes on in another segment. The old one is synced before any flush is
// acknowledged from the new one: it is in unsynced until then.
func (l *Log) rotate() error {
	if err := l.reserve(1); err != nil {
		return err
	}
	seg := l.reserved[0]
	l.reserved = l.reserved[1:]
	l.retire()
	l.cur, l.pos, l.index, l.indexed = seg, pageSize, nil, 0
	return nil
}

// retire ends the current segment.
func (l *Log) retire() {
	if l.cur != nil {
		l.cur.end.Store(l.wrote)
		l.cur.full = fullSegment{l.index[:l.indexed], l.pos}
		l.index, l.indexed = nil, 0
		l.cur.trimPieces()
		l.unsynced = append(l.unsynced, l.cur)
		l.cur = nil
	}
}

// Rotate ends the current segment, so that what follows goes to another one.
func (l *Log) Rotate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pos > pageSize {
		l.retire()
	}
}

// Close syncs and indexes what was appended and gives up the log's own hold on
// its segments. Nothing may be appended afterwards.
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
				// Everything was durable before the rotation, so no sync came upon it.
				_ = s.finish()
			}
			s.releaseLog()
		}
	}
	l.unsynced, l.cur = nil, nil
	return err
}
