package wal

import (
	"cmp"
	"slices"
	"sort"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
)

// Source is a segment that a volume's metadata names, and the part of it that counts.
type Source struct {
	Segment *Segment
	// Limit is the last number that belongs to the volume; the segment is known to hold
	// it. 0 means that the log was still being written.
	Limit uint64
	First uint64 // number of its first record, 0 if the metadata does not know it
}

// Entry is a record that recovery found to be part of the volume.
type Entry struct {
	Record
	Place extent.Place
	Own   bool // from a segment that this volume wrote
}

// Recovered is the state of a log after the host stopped in any way.
type Recovered struct {
	// Entries are the records that count, by rising sequence number: the last one that
	// covers a byte is the newest.
	Entries []Entry
	// Last is the last sequence number of the log. The next record gets the number after
	// it.
	Last uint64
	// Sources are the segments that are still needed, with limits, so that nothing after
	// Last can ever count again. They must be in the metadata before the next record is
	// appended.
	Sources []Source
}

// Recover reads the content of a volume's log: the records with a number greater than
// folded, from its own segments (those it wrote, in the order of their use) and from
// those that it shares with the volume it was forked from.
//
// prefix: the own log counts up to the first record that is not whole. If a later record
// says that the log was durable through that one, it is not a torn tail but damage to
// acknowledged data. That is an error of kind errs.Corrupt, unless force is set.
func (p *Pool) Recover(writer Identity, sources []Source, folded, floor, used uint64, force bool) (Recovered, error) {
	r := recovery{pool: p, writer: writer, force: force, own: floor, used: used}
	for _, src := range sources {
		x, err := p.indexOf(src.Segment)
		if err != nil {
			return Recovered{}, err
		}
		r.parts = append(r.parts, part{src, x})
	}
	for i := range r.parts {
		if err := r.take(i); err != nil {
			return Recovered{}, err
		}
	}
	r.dropUnfinishedWrites()
	r.collect(folded, max(floor, used))
	return r.out, nil
}

// indexOf returns the segment's index. During the start it is read once for all volumes
// that share the segment.
func (p *Pool) indexOf(s *Segment) (index, error) {
	p.mu.Lock()
	x, ok := p.found[s]
	p.mu.Unlock()
	if ok {
		return x, nil
	}
	x, err := s.index()
	if err != nil {
		return index{}, err
	}
	p.mu.Lock()
	s.adopt(&x)
	if p.found != nil {
		p.found[s] = x
	}
	p.mu.Unlock()
	return x, nil
}

type part struct {
	Source
	index
}

type recovery struct {
	pool   *Pool
	writer Identity
	force  bool
	parts  []part
	kept   []part
	used   uint64
	own    uint64 // last number found in the own log so far
	torn   bool
	out    Recovered
}

func (p *part) last() uint64 {
	if len(p.recs) == 0 {
		return 0
	}
	return p.recs[len(p.recs)-1].Seq
}

// take checks part i and keeps the records of it that count.
func (r *recovery) take(i int) error {
	p := r.parts[i]
	seg := p.Segment
	switch {
	case seg.kind == kindCompacted:
		if !p.trailer {
			return r.damage(seg, "its trailer is not valid", 0)
		}
		r.keep(p)
		return nil
	case p.Limit > 0:
		if p.last() < p.Limit {
			if err := r.damage(seg, "records are missing", p.end); err != nil {
				return err
			}
			p.Limit = p.last()
		}
	case seg.writer != r.writer:
		return errs.New(errs.Corrupt, "%s: shared without a limit", seg.name())
	case r.torn:
		return nil // after the end of the log
	default:
		if err := r.tail(&p, r.parts[i+1:]); err != nil {
			return err
		}
	}
	if seg.writer == r.writer && p.Limit > 0 {
		r.own = max(r.own, p.Limit)
		if len(p.recs) > 0 {
			seg.first.Store(p.recs[0].Seq)
			seg.begun.Store(true)
		}
		seg.end.CompareAndSwap(0, p.Limit)
	}
	if p.Limit > 0 {
		r.keep(p)
	}
	return nil
}

func (r *recovery) keep(p part) { r.kept = append(r.kept, p) }

// tail finds the end of a segment that was being written, or was waiting for its index,
// when the host stopped. later are the parts after it.
func (r *recovery) tail(p *part, later []part) error {
	p.Limit = p.last()
	if p.trailer {
		return nil // it was written after a sync
	}
	// flush-is-durable: what a killed daemon wrote may be only in memory, and counts as
	// durable from here on.
	if err := p.Segment.sync(); err != nil {
		return err
	}
	end := p.Limit
	if end == 0 {
		end = r.own
		if p.First == 0 || p.First > r.used {
			end = max(end, r.used) // what was durable then is in another segment
		}
	} else if p.First == 0 {
		p.First = p.recs[0].Seq
	}
	if p.First != 0 && p.First <= r.used && end < r.used {
		// The log was durable through used when that was last recorded, but no full
		// segment holds that record.
		if err := r.damage(p.Segment, "an acknowledged record is not whole", p.end); err != nil {
			return err
		}
	}
	mark, err := p.Segment.beyond(p.end, end)
	if err != nil {
		return err
	}
	first := uint64(0)
	for _, l := range later {
		if l.Segment.kind != kindLog || l.Segment.writer != r.writer {
			continue
		}
		for i := range l.recs {
			if first == 0 {
				first = l.recs[i].Seq
			}
			mark = max(mark, l.recs[i].Durable)
		}
	}
	if first == end+1 {
		return nil // the log continues in the next segment
	}
	if mark > end {
		if err := r.damage(p.Segment, "an acknowledged record is not whole", p.end); err != nil {
			return err
		}
	}
	r.torn = true
	return nil
}

// damage returns the error for acknowledged data that is gone, or nil if force is set.
func (r *recovery) damage(s *Segment, what string, pos uint32) error {
	if r.force {
		return nil
	}
	return errs.New(errs.Corrupt, "log segment %s is damaged from byte %d on: %s; what came before can be opened with --force", s.name(), pos, what)
}

// dropUnfinishedWrites cuts the log before a write of several records whose last record
// is missing. A write that begins at or before r.used is whole; cleaning may have moved
// the rest of it.
func (r *recovery) dropUnfinishedWrites() {
	if fault.Is("half-a-write-counts") {
		return
	}
	for i := len(r.kept) - 1; i >= 0; i-- {
		p := &r.kept[i]
		if p.Segment.kind != kindLog || p.Segment.writer != r.writer {
			continue
		}
		n := sort.Search(len(p.recs), func(i int) bool { return p.recs[i].Seq > p.Limit })
		for n > 0 && p.recs[n-1].More && p.recs[n-1].Seq > r.used {
			n--
		}
		if n > 0 {
			p.Limit = p.recs[n-1].Seq
			r.own = p.Limit
			return
		}
		// The whole segment belongs to the write: drop it, and check the one before.
		r.kept = append(r.kept[:i], r.kept[i+1:]...)
		r.own = 0
	}
}

// collect collects the entries of the parts that were kept.
func (r *recovery) collect(folded, used uint64) {
	r.out.Last = max(folded, used, r.own)
	n := 0
	for i := range r.kept {
		n += len(r.kept[i].recs)
	}
	r.out.Entries = make([]Entry, 0, n)
	for i := range r.kept {
		p := &r.kept[i]
		limit := p.Limit
		if limit == 0 {
			limit = 1<<64 - 1
		}
		needed := false
		for j := range p.recs {
			rec := &p.recs[j]
			if rec.Seq > folded && rec.Seq <= limit {
				needed = true
				if !broken(p.recs, j) {
					r.out.Entries = append(r.out.Entries, Entry{*rec, p.Segment.PlaceOf(rec), p.Segment.writer == r.writer})
				}
				r.out.Last = max(r.out.Last, min(rec.Seq, limit))
			}
		}
		if needed {
			r.out.Sources = append(r.out.Sources, p.Source)
		}
	}
	bySeq := func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) }
	if !slices.IsSortedFunc(r.out.Entries, bySeq) {
		slices.SortStableFunc(r.out.Entries, bySeq)
	}
	if invariants.Enabled {
		r.assertEntries(folded)
	}
}

// assertEntries asserts of what recovery found what Log asserts of what it writes.
func (r *recovery) assertEntries(folded uint64) {
	before := folded
	for i := range r.out.Entries {
		e := &r.out.Entries[i]
		inOrder, aligned := e.Seq > folded && e.Seq >= before && e.Seq <= r.out.Last, e.Pos&3 == 0 && e.Pos >= pageSize
		if held := e.Place == extent.Zero || r.hasSource(NumberOf(e.Place)); !(inOrder && aligned && held) {
			invariants.Fail("record %d after %d, at %d of segment %d, in a log that is folded through %d and ends at %d", e.Seq, before, e.Pos, NumberOf(e.Place), folded, r.out.Last)
		}
		before = e.Seq
	}
}

func (r *recovery) hasSource(number uint32) bool {
	return slices.ContainsFunc(r.out.Sources, func(s Source) bool { return s.Segment.number == number })
}

// broken reports whether record j is part of a write that failed half-way: its More flag
// is set, but the record after it in the segment does not continue the write.
func broken(recs []Record, j int) bool {
	for ; j < len(recs) && recs[j].More; j++ {
		if j+1 < len(recs) && !recs[j+1].Cont {
			return true
		}
	}
	return false
}
