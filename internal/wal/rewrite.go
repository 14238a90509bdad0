package wal

import (
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
)

// Rewritten is a record that Rewrite copied.
type Rewritten struct {
	Off, Len uint64
	From, To extent.Place
	Segment  *Segment // the old segment
}

// Rewrite follows a failed sync. It copies every record after the durable number, with
// its number, from the segments that could not be synced to fresh ones, and syncs those.
// After that number the old segments no longer count. Rewrite fails if a record cannot be
// read back whole or the copies cannot be synced. The caller makes sure that no append is
// in progress. No sync is, because the failed one keeps others out.
func (l *Log) Rewrite() ([]Rewritten, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	durable, last := l.durable.Load(), l.last.Load()
	l.retire()
	old := l.unsynced
	l.unsynced = nil
	defer func() {
		for _, s := range old {
			s.releaseLog()
		}
	}()
	var out []Rewritten
	next := durable + 1
	for _, s := range old {
		x, err := s.scan(pageSize)
		if err != nil {
			return nil, err
		}
		for i := range x.recs {
			if x.recs[i].Seq != next {
				continue
			}
			r, err := l.copyRecord(s, &x.recs[i])
			if err != nil {
				return nil, err
			}
			out = append(out, r)
			next++
		}
		if next <= s.End() {
			return nil, s.damage(x.end, s.size, 0, 0, fmt.Sprintf("the record behind number %d, at byte %d, cannot be read back", next-1, x.end))
		}
	}
	if next != last+1 {
		return nil, errs.New(errs.Corrupt, "the records behind number %d cannot be read back", next-1)
	}
	for _, s := range append(l.unsynced, l.cur) {
		if s == nil {
			continue
		}
		if err := s.sync(); err != nil {
			return nil, err
		}
	}
	l.syncMu.Lock()
	l.durable.Store(max(last, l.durable.Load()))
	l.failed = nil
	l.syncMu.Unlock()
	return out, nil
}

// copyRecord appends a record with its old number.
func (l *Log) copyRecord(s *Segment, r *Record) (Rewritten, error) {
	body, err := s.ReadRecord(r, nil)
	if err != nil {
		return Rewritten{}, err
	}
	need, entry := size(uint32(len(body))), HeaderSize+uint32(zeroPayload)
	if !r.Zero {
		need, entry = size(uint32(len(body))+l.pool.iv()), HeaderSize+l.pool.iv()
	}
	if l.cur == nil || capacity(l.pos+need, uint32(len(l.index))+entry) > uint64(l.cur.size) {
		full := l.cur
		if err := l.rotate(capacity(pageSize+need, entry)); err != nil {
			return Rewritten{}, err
		}
		if full != nil {
			full.end.Store(r.Seq - 1)
		}
	}
	var rec []byte
	// What was known durable then still is. Nothing newer may be claimed yet.
	if r.Zero {
		rec = encodeIndex([]Record{*r}, nil)
		sign(rec, l.cur.seed)
	} else {
		rec = l.cur.appendData(nil, l.pos, r, r.Durable, body)
	}
	index := rec[:entry]
	rec = append(rec, zeroPage[:need-uint32(len(rec))]...)
	if _, err := l.cur.file.WriteAt(rec, int64(l.pos)); err != nil {
		l.cur.dropSums()
		return Rewritten{}, l.pool.diskError("append to "+l.cur.name(), err)
	}
	out := Rewritten{Off: r.Off, Len: r.Len, From: s.PlaceOf(r), Segment: s}
	at := *r
	at.Pos = l.pos
	out.To = l.cur.PlaceOf(&at)
	if !l.cur.begun.Load() {
		l.cur.first.Store(r.Seq)
	}
	l.cur.begun.Store(true)
	l.cur.keepSums()
	l.pos += need
	l.index = append(l.index, index...)
	l.indexed = len(l.index)
	return out, nil
}

// Shrink is Restart for an idle volume: its next segment has the size of a first one. The
// caller makes sure that no append is in progress.
func (l *Log) Shrink() error {
	if err := l.Restart(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = 0
	return nil
}

// Restart syncs, ends the current segment, and drops the prepared one: the next record
// goes to a segment that is attached after this call. The caller makes sure that no
// append is in progress.
func (l *Log) Restart() error {
	l.Rotate()
	if err := l.Sync(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropReserved()
	if l.cur != nil { // it was started, but a failed append left it empty
		l.cur.releaseLog()
		l.cur = nil
	}
	return nil
}
