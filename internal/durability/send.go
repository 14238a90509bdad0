package durability

import (
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/volume"
)

// send sends the data commits that are ready. If more changes are due, it takes them, as
// the next data commit, or folds the volume if no data commit is possible.
func (s *shipper) send() error {
	o := s.d.Owned.Load()
	if o == nil || o.Generation().IsZero() || s.v.State().Rebase {
		return s.publishNow(commitlog.CauseFlush)
	}
	if err := s.sendReady(o); err != nil {
		return err
	}
	if s.dueToTake() > 0 {
		return nil
	}
	count, bytes := o.Unfolded()
	soon, first := foldNow(uint64(count), int64(bytes), s.k.FoldAfter)
	if first {
		return s.drainAndPublish(o, commitlog.CauseFold)
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

// take takes the changes as the next data commit, and sends it if it is ready.
func (s *shipper) take(o *commitlog.Owner) error {
	last, began := s.v.Last(), s.k.disks.Uptime()
	c, err := s.v.TakeChanges()
	if err != nil {
		return err
	}
	if c == nil { // every write through last was taken before
		s.change(func(p *promise) { p.nothingUnsentThrough(last) })
		return nil
	}
	s.change(func(p *promise) { p.take(c.At) })
	l := layOut(c, s.k.BulkBytes)
	switch {
	case len(l.ranges) == 0: // the published map holds all of it
		c.Release()
		s.change(func(p *promise) { p.nothingUnsentThrough(c.Seq) })
		return nil
	case l.size > commitlog.MaxData-4096: // no data commit can hold these changes
		c.Release()
		if err = s.drainAndPublish(o, commitlog.CauseFlush); err != nil {
			s.v.ReturnChanges(c)
		}
		return err
	}
	dc := &dataCommit{changes: c, layout: l, ready: make(chan struct{})}
	if len(l.blocks) == 0 {
		if dc.prepare(s.ctx, nil); dc.err != nil {
			s.v.ReturnChanges(c)
			return dc.err
		}
	}
	s.enqueue(dc, flight{seq: c.Seq, at: c.At, began: began, bytes: l.size})
	return s.sendReady(o)
}

// sendReady sends the data commits that are ready, in order. If one cannot be sent, the
// changes of it and of all commits after it are unsent again.
func (s *shipper) sendReady(o *commitlog.Owner) error {
	for {
		c := s.nextToSend()
		if c == nil || !c.isReady() {
			return nil
		}
		err := c.err
		if err == nil {
			err = s.ship(o, c)
		}
		if err == nil {
			continue
		}
		s.withdraw()
		if errs.KindOf(err) == errs.Invalid && s.ctx.Err() == nil {
			// No data commit can follow the last fold, for instance because the volume has
			// outgrown its map.
			return s.publishNow(commitlog.CauseFlush)
		}
		return err
	}
}

// ship sends one data commit.
func (s *shipper) ship(o *commitlog.Owner, c *dataCommit) error {
	// The request outlives this shipper: a verb that stops the shipper makes its own
	// requests after it.
	sent, err := o.Ship(cost.Carry(s.k.disks.Ctx, s.ctx), c.changes.Seq, c.data, s.amend)
	if err != nil {
		return err
	}
	s.d.Stored.Add(int64(len(c.data)))
	s.change(func(*promise) { c.sent = sent })
	return nil
}

// amend updates the state of a data commit to the disk's record. The record may be newer
// than the commit's changes: another commit may have said so already.
func (s *shipper) amend(state *commitlog.State) {
	st := s.d.State()
	s.k.amend(s.d, state, &st)
	if p := s.announced.Load(); p != nil {
		p.commit(state)
	}
}

// amend updates a carried state to the disk's record.
func (k *Keeper) amend(d *disk.Disk, state *commitlog.State, st *volume.State) {
	now := k.disks.CommitState(st, commitlog.CauseData)
	state.Cause, state.Size, state.Labels, state.Limits = now.Cause, now.Size, now.Labels, now.Limits
	state.Durability, state.RPOMillis, state.Keep = now.Durability, now.RPOMillis, now.Keep
}

// lateCommit is how long commits may be in flight with none taking effect before an event
// reports it. Requests to an unreachable store are retried for longer than that.
const lateCommit = 3 * time.Second

var errLate = errs.New(errs.Unavailable, "no response for %v", lateCommit)

// settle waits for the outcome of the commits, in order.
func (s *shipper) settle() {
	retry := firstRetry
	for {
		c := s.oldestCommit()
		if c == nil {
			return
		}
		late := time.AfterFunc(lateCommit, func() { s.failed(errLate) })
		sent := s.awaitSent(c)
		if sent == nil { // it was withdrawn
			late.Stop()
			continue
		}
		g, err := sent.Wait(s.ctx)
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
		s.dataCommits = s.dataCommits[1:]
		recovered = p.landed(now)
	})
	c.release()
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
	// Under mu no changes move between unsent and in flight without being seen: taking
	// them is recorded before, and returning them after.
	s.mu.Lock()
	last := s.v.Last()
	settled := s.p.settled(last, s.unsent())
	s.mu.Unlock()
	if settled {
		s.Reached(last)
	}
}

// drainAndPublish sends the commits whose blocks are still being uploaded, so that the
// fold does not upload these blocks a second time, and then publishes the whole volume.
func (s *shipper) drainAndPublish(o *commitlog.Owner, cause commitlog.Cause) error {
	for c := s.nextToSend(); c != nil; c = s.nextToSend() {
		<-c.ready // the upload ends when the shipper does
		if err := s.sendReady(o); err != nil {
			return err
		}
	}
	return s.publishNow(cause)
}

// publishNow folds and publishes the whole volume, for the loop that sends. Afterwards the
// store holds every write made before the call.
func (s *shipper) publishNow(cause commitlog.Cause) error {
	unlock, err := s.lockOpNow()
	if err != nil {
		return err
	}
	defer unlock()
	return s.tryPublish(cause, s.v.BeginFold)
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
		if err := s.foldUnderOp(); err != nil && s.ctx.Err() == nil {
			s.k.disks.Log.Warn("data commits were not folded", "volume", s.d.String(), "error", err)
			_ = clock.Pause(s.ctx, time.Second)
		}
		s.change(func(p *promise) { p.folding = false })
	})
}

func (s *shipper) foldUnderOp() error {
	unlock, err := s.lockOp()
	if err != nil {
		return err
	}
	defer unlock()
	return s.tryPublish(commitlog.CauseFold, s.BeginFold)
}

// tryPublish publishes the cut that begin takes. It does not fence on a lost epoch:
// fencing stops this shipper while it waits. Under op.
func (s *shipper) tryPublish(cause commitlog.Cause, begin func() (*volume.Cut, error)) error {
	_, err := s.k.publisher.TryPublish(cost.Begin(s.ctx, cost.Fold, s.d.Payer()), s.d, cause, func(*commitlog.State) {}, begin)
	return err
}

// BeginFold implements disk.Shipper. If the volume has much that is not sent yet, it takes
// the cut and then waits until that is sent: so the fold finds those blocks in the store
// instead of uploading them, too. It waits no longer than the store takes commits.
func (s *shipper) BeginFold() (*volume.Cut, error) {
	c, err := s.v.BeginFold()
	if err != nil {
		return nil, err
	}
	if s.unsent().bytes < s.k.BulkBytes && s.nextToSend() == nil {
		return c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.wanted < c.Seq {
		s.p.wanted = c.Seq
		s.poke()
	}
	for !s.sentThrough(c.Seq) && s.p.over == nil && s.p.err == nil && !s.opWanted {
		s.changed.Wait()
	}
	return c, nil
}
