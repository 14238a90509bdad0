package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
)

// Rewritten is a record that Rewrite copied.
type Rewritten struct {
	Off, Len uint64
	From, To extent.Place
	Segment  *Segment // in which it was
}

// Rewrite is what follows a failed sync: every record behind the durable number
// is copied, with its number, from the segments that could not be synced to
// fresh ones, which are synced. The old ones count no more behind that number.
// It fails when a record cannot be read back whole or the copies not be synced.
// No append may be under way; nor is a sync, since the failed one keeps others out.
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
		recs, end, err := s.scan(pageSize)
		if err != nil {
			return nil, err
		}
		for i := range recs {
			if recs[i].Seq != next {
				continue
			}
			r, err := l.copyRecord(s, &recs[i])
			if err != nil {
				return nil, err
			}
			out = append(out, r)
			next++
		}
		if next <= s.End() {
			return nil, s.damage(end, s.size, 0, 0, fmt.Sprintf("the record behind number %d, at byte %d, cannot be read back", next-1, end))
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

// copyRecord appends a record with the number that it has.
func (l *Log) copyRecord(s *Segment, r *Record) (Rewritten, error) {
	body, err := s.ReadRecord(r, nil)
	if err != nil {
		return Rewritten{}, err
	}
	index := encodeIndex([]Record{*r})
	need := size(uint32(len(body)))
	if l.cur == nil || capacity(l.pos+need, uint32(len(l.index)+len(index))) > uint64(l.cur.size) {
		full := l.cur
		if err := l.rotate(capacity(pageSize+need, uint32(len(index)))); err != nil {
			return Rewritten{}, err
		}
		if full != nil {
			full.end.Store(r.Seq - 1)
		}
	}
	rec := make([]byte, need)
	copy(rec, index[:HeaderSize])
	// What was known durable then still is; nothing newer may be claimed yet.
	copy(rec[HeaderSize:], body)
	if r.Zero {
		sign(rec[:HeaderSize+len(body)], l.cur.seed)
	} else {
		binary.LittleEndian.PutUint32(rec, l.cur.sum(l.pos, r.Off, rec, body))
	}
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

// Shrink is Restart for a volume that is idle: its next segment is a first one. No
// append may be under way.
func (l *Log) Shrink() error {
	if err := l.Restart(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = 0
	return nil
}

// Restart ends the current segment and forgets the one made ready, after
// syncing: the next record goes to a segment that is attached after this call. No
// append may be under way.
func (l *Log) Restart() error {
	l.Rotate()
	if err := l.Sync(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropReserved()
	if l.cur != nil { // begun, but a failed append left it empty
		l.cur.releaseLog()
		l.cur = nil
	}
	return nil
}
