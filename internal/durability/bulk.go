package durability

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/volume"
)

// dataCommit is a data commit from the moment when its changes are taken until it takes
// effect.
type dataCommit struct {
	changes *volume.Changes // their cut is released when ready is closed
	layout  layout
	after   uint64             // every write through this one was taken before
	cancel  context.CancelFunc // ends the upload of its blocks; nil if there is none

	ready chan struct{} // closed when the next three are set
	data  []byte        // the data section
	store publication.Stored
	err   error

	sent *commitlog.Shipment // nil until it is sent; under shipper.mu
}

// layout is how a data commit carries its changes.
type layout struct {
	ranges []commitlog.Range // without content
	bytes  []int             // indexes of ranges whose bytes the commit carries
	blocks []int             // indexes of ranges that are whole blocks in packs
	size   int64             // bytes, each block at its full length
}

// layOut lays out changes. If the blocks that they fill hold at least bulk bytes together,
// these go into packs, where the next fold finds them. Fewer go as bytes, so that a small
// flush is one request.
func layOut(c *volume.Changes, bulk int64) layout {
	size := uint64(c.State.BlockSize)
	var filled uint64
	c.Runs(func(off, length uint64, zero bool) {
		if from, to := wholeBlocks(off, length, size); !zero {
			filled += to - from
		}
	})
	var l layout
	add := func(list *[]int, off, end uint64) {
		if off < end {
			*list = append(*list, len(l.ranges))
			l.ranges = append(l.ranges, commitlog.Range{Off: off, Len: end - off})
			l.size += int64(end-off) + 32
		}
	}
	c.Runs(func(off, length uint64, zero bool) {
		end := off + length
		if zero {
			l.ranges = append(l.ranges, commitlog.Range{Off: off, Len: length})
			l.size += 32
			return
		}
		from, to := end, end
		if int64(filled) >= bulk {
			from, to = wholeBlocks(off, length, size)
		}
		add(&l.bytes, off, from)
		for at := from; at < to; at += size {
			add(&l.blocks, at, at+size)
			l.size += 64
		}
		add(&l.bytes, to, end)
	})
	return l
}

// wholeBlocks returns the part of a range that consists of whole blocks. It is empty, and
// at the end of the range, if there are none.
func wholeBlocks(off, length, size uint64) (from, to uint64) {
	from, to = (off+size-1)/size*size, (off+length)/size*size
	if from >= to {
		return off + length, off + length
	}
	return from, to
}

// prepare makes the data section, after it has uploaded the blocks that the section
// names. published-is-complete: the commit is sent when this is done, and the log is
// synced through its cut before.
func (c *dataCommit) prepare(ctx context.Context, store func(indexes []uint64) (publication.Stored, error)) {
	defer close(c.ready)
	defer c.changes.Release()
	c.err = c.fill(ctx, store)
}

func (c *dataCommit) fill(ctx context.Context, store func([]uint64) (publication.Stored, error)) (err error) {
	defer errs.Catch(&err)
	if err := c.changes.Sync(); err != nil {
		return err
	}
	l := c.layout
	c.layout = layout{}
	if err := c.read(ctx, l.ranges, l.bytes); err != nil {
		return err
	}
	if len(l.blocks) > 0 {
		size := uint64(c.changes.State.BlockSize)
		indexes := make([]uint64, len(l.blocks))
		for k, i := range l.blocks {
			indexes[k] = l.ranges[i].Off / size
		}
		c.store, err = store(indexes)
		switch {
		case err != nil && (ctx.Err() != nil || errs.KindOf(err) == errs.Unavailable):
			return err
		case err != nil: // packs cannot be used, for instance because the metadata cannot be written
			if err := c.read(ctx, l.ranges, l.blocks); err != nil {
				return err
			}
		}
		for k, i := range l.blocks {
			if ref := c.store.Blocks[indexes[k]]; !ref.IsHole() {
				l.ranges[i].Block = &ref
			}
		}
		c.store.Blocks = nil
	}
	c.data, err = commitlog.EncodeData(l.ranges)
	return err
}

// read reads the bytes of the ranges with these indexes from the cut.
func (c *dataCommit) read(ctx context.Context, ranges []commitlog.Range, list []int) error {
	for _, i := range list {
		r := &ranges[i]
		r.Data = make([]byte, r.Len)
		if err := c.changes.ReadAt(ctx, r.Data, r.Off); err != nil {
			return err
		}
	}
	return nil
}

func (c *dataCommit) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// release ends the announcement of the packs that the commit names.
func (c *dataCommit) release() {
	if c.store.Release != nil {
		c.store.Release()
	}
}

// enqueue puts a data commit behind those taken before, and begins the upload of its
// blocks.
func (s *shipper) enqueue(c *dataCommit, f flight) {
	ready := c.isReady()
	ctx := s.ctx
	if !ready {
		ctx, c.cancel = context.WithCancel(ctx)
	}
	s.change(func(p *promise) {
		c.after = p.sent
		p.took(f)
		s.dataCommits = append(s.dataCommits, c)
	})
	if ready {
		return
	}
	s.done.Go(func() {
		defer c.cancel()
		c.prepare(ctx, func(indexes []uint64) (publication.Stored, error) {
			cut := c.changes.Cut
			if fault.Is("block-of-a-later-cut") && clock.Pause(ctx, 50*time.Millisecond) == nil {
				if later, err := s.v.Cut(); err == nil {
					defer later.Release()
					cut = later
				}
			}
			stored, err := s.k.publisher.StoreBlocks(ctx, cut, indexes)
			s.d.Stored.Add(int64(stored.Uploaded))
			return stored, err
		})
		s.poke()
	})
}

// nextToSend returns the oldest data commit that is not sent yet, or nil. prefix: none is
// sent before it.
func (s *shipper) nextToSend() *dataCommit {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next *dataCommit
	for _, c := range s.dataCommits {
		if c.sent == nil && (next == nil || fault.Is("bytes-overtake-blocks") && c.isReady() && !next.isReady()) {
			next = c
		}
	}
	return next
}

// sentThrough reports whether no write through seq waits to be sent. Under mu.
func (s *shipper) sentThrough(seq uint64) bool {
	for _, c := range s.dataCommits {
		if c.sent == nil {
			return c.after >= seq
		}
	}
	return s.p.sent >= seq
}

// withdraw makes the changes of all data commits that are not sent unsent again. Only the
// loop that sends calls it.
func (s *shipper) withdraw() {
	var unsent []*dataCommit
	s.mu.Lock()
	for _, c := range s.dataCommits {
		if c.sent == nil {
			unsent = append(unsent, c)
		}
	}
	s.mu.Unlock()
	for _, c := range unsent {
		if c.cancel != nil {
			c.cancel()
		}
	}
	for _, c := range unsent {
		<-c.ready
		s.v.ReturnChanges(c.changes)
		c.release()
	}
	s.change(func(p *promise) {
		s.dataCommits = s.dataCommits[:len(s.dataCommits)-len(unsent)]
		p.withdrawn(len(unsent))
	})
}

// oldestCommit waits for a data commit that has not taken effect, and returns the oldest,
// or nil when the shipper stops.
func (s *shipper) oldestCommit() *dataCommit {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.dataCommits) == 0 && s.p.over == nil {
		s.changed.Wait()
	}
	if len(s.dataCommits) == 0 || s.ctx.Err() != nil || s.p.over != nil && s.dataCommits[0].sent == nil {
		return nil
	}
	return s.dataCommits[0]
}

// awaitSent waits until the oldest data commit is sent. It returns nil if the commit was
// withdrawn or the shipper stops.
func (s *shipper) awaitSent(c *dataCommit) *commitlog.Shipment {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c.sent == nil && len(s.dataCommits) > 0 && s.dataCommits[0] == c && s.p.over == nil {
		s.changed.Wait()
	}
	return c.sent
}
