package durability

import (
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/volume"
)

// send sends the changes: as a data commit, or by a fold of the volume if no data commit
// is possible.
func (s *shipper) send() error {
	o := s.d.Owned.Load()
	if o == nil || o.Generation().IsZero() || s.v.State().Rebase {
		return s.publishAll(commitlog.CauseFlush)
	}
	count, bytes := o.Unfolded()
	soon, first := foldNow(uint64(count), int64(bytes), s.k.FoldAfter)
	if first {
		return s.publishAll(commitlog.CauseFold)
	}
	if soon {
		s.fold()
	}
	// While changes are being taken, they must not look as if they were in the store.
	at := s.unsent().at
	s.change(func(p *promise) { p.take(at) })
	err := s.take(o)
	s.change((*promise).returned)
	s.advance()
	return err
}

// take takes the changes and sends them as a data commit.
func (s *shipper) take(o *commitlog.Owner) error {
	last := s.v.Last()
	c, err := s.v.TakeChanges()
	if err != nil {
		return err
	}
	if c == nil { // every write through last was taken before
		s.change(func(p *promise) { p.nothingUnsentThrough(last) })
		return nil
	}
	defer c.Release()
	s.change(func(p *promise) { p.take(c.At) })
	err = s.ship(o, c)
	if err == errTooLarge || errs.KindOf(err) == errs.Invalid && s.ctx.Err() == nil {
		// No data commit can hold these changes, or none can follow the last fold, for
		// instance because the volume has outgrown its map.
		err = s.publishAll(commitlog.CauseFlush)
	}
	if err != nil {
		s.v.ReturnChanges(c)
	}
	return err
}

// errTooLarge is the error for changes that exceed a data commit.
var errTooLarge = errs.New(errs.Invalid, "the changes are too large for one data commit")

// ship sends one data commit.
func (s *shipper) ship(o *commitlog.Owner, c *volume.Changes) error {
	if err := c.Sync(); err != nil {
		return err
	}
	data, err := encodeChanges(c)
	if err != nil {
		return err
	}
	if data == nil {
		s.change(func(p *promise) { p.nothingUnsentThrough(c.Seq) })
		return nil
	}
	f := flight{seq: c.Seq, at: c.At, began: s.k.disks.Uptime(), bytes: int64(len(data))}
	// The request outlives this shipper: a verb that stops the shipper makes its own
	// requests after it.
	sent, err := o.Ship(s.k.disks.Ctx, c.Seq, data, func(state *commitlog.State) { s.k.amend(s.d, state, &c.State) })
	if err != nil {
		return err
	}
	s.d.Stored.Add(f.bytes)
	s.change(func(p *promise) {
		p.took(f)
		s.commitsSent = append(s.commitsSent, &dataCommit{ship: sent, changes: c})
	})
	return nil
}

// amend updates a carried state to the disk's record.
func (k *Keeper) amend(d *disk.Disk, state *commitlog.State, st *volume.State) {
	now := k.disks.CommitState(st, commitlog.CauseData)
	state.Cause, state.Size, state.Labels, state.Limits = now.Cause, now.Size, now.Labels, now.Limits
	state.Durability, state.RPOMillis = now.Durability, now.RPOMillis
}

// encodeChanges returns the data section for the changes, or nil if the published map
// already holds all of them.
func encodeChanges(c *volume.Changes) ([]byte, error) {
	var ranges []commitlog.Range
	var size int64
	err := c.Read(func(off, length uint64, data []byte) {
		size += int64(len(data)) + 32
		ranges = append(ranges, commitlog.Range{Off: off, Len: length, Data: data})
	})
	switch {
	case err != nil:
		return nil, err
	case size > commitlog.MaxData-4096:
		return nil, errTooLarge
	case len(ranges) == 0:
		return nil, nil
	}
	return commitlog.EncodeData(ranges)
}

// lateCommit is how long commits may be in flight with none taking effect before an event
// reports it. Requests to an unreachable store are retried for longer than that.
const lateCommit = 3 * time.Second

var errLate = errs.New(errs.Unavailable, "no response for %v", lateCommit)

// settle waits for the outcome of the commits, in order.
func (s *shipper) settle() {
	retry := firstRetry
	for {
		s.mu.Lock()
		for len(s.commitsSent) == 0 && s.p.over == nil {
			s.changed.Wait()
		}
		if len(s.commitsSent) == 0 || s.ctx.Err() != nil {
			s.mu.Unlock()
			return
		}
		c := s.commitsSent[0]
		s.mu.Unlock()
		late := time.AfterFunc(lateCommit, func() { s.failed(errLate) })
		g, err := c.ship.Wait(s.ctx)
		late.Stop()
		if err != nil {
			if s.failed(err) || s.retryPause(retry) != nil {
				return
			}
			retry = nextRetry(retry, err)
			if o := s.d.Owned.Load(); o != nil {
				_, _ = o.Resolve(s.ctx) // if it fails, the next Wait returns the error
			}
			continue
		}
		retry = firstRetry
		s.landed(c, g)
	}
}

// landed records that a commit took effect, with all commits before it.
func (s *shipper) landed(c *dataCommit, g commitlog.Generation) {
	now := s.k.disks.Uptime()
	s.commits.Add(1)
	var save, recovered bool
	s.change(func(p *promise) { save = p.dueToSave(now) })
	if err := s.v.NoteShipped(c.changes.Seq, volume.Published{Epoch: g.Epoch, Number: g.Number}, save); err != nil {
		s.k.disks.Log.Warn("the record of a volume is out of date", "volume", s.d.String(), "error", err) // it may
	}
	s.change(func(p *promise) {
		s.commitsSent = s.commitsSent[1:]
		recovered = p.landed(now)
	})
	if recovered {
		s.k.disks.Event(event.Store, s.d.String(), "the store takes commits again")
	}
	s.Reached(c.changes.Seq)
	s.advance()
}

// Reached implements disk.Shipper.
func (s *shipper) Reached(seq uint64) {
	s.change(func(p *promise) { p.reached(seq) })
	s.poke()
}

// advance records that the store holds the newest write if nothing is left to be sent.
func (s *shipper) advance() {
	last, u := s.v.Last(), s.unsent()
	s.mu.Lock()
	settled := s.p.settled(last, u)
	s.mu.Unlock()
	if settled {
		s.Reached(last)
	}
}

// publishAll folds and publishes the whole volume. Afterwards the store holds every write
// made before the call.
func (s *shipper) publishAll(cause commitlog.Cause) error {
	unlock, err := s.lockOp()
	if err != nil {
		return err
	}
	defer unlock()
	// Not Publish: it would fence on a lost epoch, and fencing stops this shipper while
	// it waits.
	_, err = s.k.publisher.TryPublish(s.ctx, s.d, cause, func(*commitlog.State) {}, nil)
	return err
}

// fold folds the data commits in the background. Only one fold runs at a time.
func (s *shipper) fold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.folding {
		return
	}
	s.p.folding = true
	s.done.Go(func() {
		if err := s.publishAll(commitlog.CauseFold); err != nil && s.ctx.Err() == nil {
			s.k.disks.Log.Warn("data commits were not folded", "volume", s.d.String(), "error", err)
			_ = clock.Pause(s.ctx, time.Second)
		}
		s.change(func(p *promise) { p.folding = false })
	})
}
