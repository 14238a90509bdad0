package cleaner

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/volume"
)

// Cleaner keeps the log within its budget. It copies the live data out of mostly dead
// segments, and flushes volumes that exceed their dirty budget. Writers that find the log
// full wait for it.
type Cleaner struct {
	Options
	disks     *disk.Table
	publisher *publication.Publisher

	idlers idlers

	poke           chan struct{}
	rounds         atomic.Uint64 // finished rounds
	freed          atomic.Uint64 // segments freed
	err            atomic.Pointer[error]
	fullReportedAt atomic.Int64 // uptime when a full log was last reported, ns

	// leastBudget is the smallest dirty budget of any volume. A volume with less dirty
	// data needs no further check on a write.
	leastBudget atomic.Uint64
}

// Options are the limits that a cleaner enforces.
type Options struct {
	DirtyBudget uint64        // bytes that a volume without a budget of its own may hold unpublished
	RoomWait    time.Duration // how long a writer waits for room in the log before it gets an error
}

// New returns a cleaner. It works while Run runs.
func New(o Options, t *disk.Table, pub *publication.Publisher) *Cleaner {
	c := &Cleaner{Options: o, disks: t, publisher: pub, poke: make(chan struct{}, 1)}
	c.leastBudget.Store(o.DirtyBudget)
	return c
}

// FlushError returns why a volume over its budget could not be flushed, or nil.
func (c *Cleaner) FlushError() error {
	if e := c.err.Load(); e != nil {
		return *e
	}
	return nil
}

// Wake starts another round. It does not wait.
func (c *Cleaner) Wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Run cleans until the context ends.
func (c *Cleaner) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.poke:
		}
		for c.clean(ctx) && ctx.Err() == nil {
		}
		c.rounds.Add(1)
		c.flushOverBudget(ctx)
		if clock.Pause(ctx, pauseBetween) != nil {
			return
		}
	}
}

// pauseBetween is the pause between two rounds.
const pauseBetween = 5 * time.Millisecond

// Thresholds of cleaning. Each share bounds the live part of the segments that are
// cleaned. Segments with next to no live data are cleaned at once: that costs almost
// nothing, and a segment is cheapest to rewrite while it is still in memory. More is
// copied when the log exceeds twice its live data plus some slack. Near the log's limit,
// any segment is cleaned that gains room.
const (
	slackSegments  = 6
	nearLimit      = 0.8
	shareDead      = 0.02
	deadAtOnce     = 3
	shareIdle      = 0.5
	shareRelaxed   = 0.6
	sharePressed   = 0.95
	victimsPerPass = 6
	leastGain      = 8 // fraction of the victims that cleaning must free
)

// clean cleans one set of segments. It reports whether another pass may help.
func (c *Cleaner) clean(ctx context.Context) bool {
	c.disks.Cleaning.Lock()
	defer c.disks.Cleaning.Unlock()
	var vols []*volume.Volume
	var live, open int64
	for _, d := range c.disks.All() {
		if v := d.Volume(); v != nil {
			vols = append(vols, v)
			a := v.Account()
			live, open = live+a.Dirty, open+a.Open
		}
	}
	used, _ := c.disks.WAL.Used()
	limit := c.disks.WAL.Limit()
	share := shareDead
	if used > 2*live+open+slackSegments*int64(c.disks.WAL.SegmentBytes()) {
		share = shareRelaxed
	}
	if limit > 0 && float64(used) > nearLimit*float64(limit) {
		share = sharePressed
	}
	return c.cleanSome(ctx, vols, share, false) || c.cleanSome(ctx, vols, shareIdle, true)
}

// cleanSome cleans the first victims that are worth it, and reports whether there were
// any. With idle, it considers only victims whose holders are all idle.
func (c *Cleaner) cleanSome(ctx context.Context, vols []*volume.Volume, share float64, idle bool) bool {
	if idle && !c.anyIdle() {
		return false
	}
	for _, vs := range volume.FindVictims(vols, share, victimsPerPass) {
		if vs.Size()-c.disks.WAL.CompactedBytes(vs.Live) < vs.Size()/leastGain || ctx.Err() != nil {
			continue // copying would free little
		}
		if idle && !c.allIdle(vs.Holders) {
			continue
		}
		if share == shareDead && (len(vs.Segments) < deadAtOnce || !vs.Settled()) {
			continue // not worth a record, or a sync that no guest asked for
		}
		done, err := volume.Clean(c.disks.WAL, vs)
		if errs.KindOf(err) == errs.Corrupt && err != nil {
			continue // reported by the volumes; the segment stays as it is
		}
		if err != nil {
			c.disks.Event(event.Disk, "", "the log could not be cleaned: %v", err)
			return false
		}
		if done {
			c.freed.Add(uint64(len(vs.Segments)))
			return true
		}
	}
	return false
}

// flushOverBudget publishes the volumes that exceed their dirty budget.
func (c *Cleaner) flushOverBudget(ctx context.Context) {
	for _, d := range c.disks.All() {
		v := d.Volume()
		if v == nil || ctx.Err() != nil {
			continue
		}
		st := d.State()
		if st.SnapshotOf == (volume.ID{}) && v.Account().Dirty > int64(c.budget(&st)) {
			if _, err := c.publisher.Flush(ctx, d, ""); err != nil {
				if c.err.Swap(&err) == nil {
					c.disks.Event(event.Store, d.String(), "it is over its dirty budget and cannot be flushed: %v", err)
				}
			} else if c.err.Swap(nil) != nil {
				c.disks.Event(event.Store, d.String(), "it was over its dirty budget and could be flushed")
			}
		}
	}
}

func (c *Cleaner) budget(st *volume.State) uint64 {
	if st.Limits.DirtyBudget > 0 {
		return st.Limits.DirtyBudget
	}
	return c.DirtyBudget
}

// Pressure implements volume.Env.Pressure. A write waits at most RoomWait; writers are
// slowed before that.
func (c *Cleaner) Pressure(v *volume.Volume, waited time.Duration) error {
	if waited > c.RoomWait {
		if at := int64(c.disks.Uptime()); at > c.fullReportedAt.Swap(at)+int64(time.Minute) {
			c.disks.Event(event.Disk, "", "the log has no room, and none could be made: writers get an error until there is some")
		}
		c.relieve()
		return errs.New(errs.NoSpace, "the log has no room, and none could be made")
	}
	before := c.rounds.Load()
	c.Wake()
	for range 20 {
		if err := clock.Pause(c.disks.Ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if c.rounds.Load() > before+1 {
			break
		}
	}
	if waited > time.Second {
		c.relieve()
	}
	return nil
}

// relieve flushes the volume with the most dirty data, to free its log.
func (c *Cleaner) relieve() {
	var most *disk.Disk
	var bytes int64
	for _, d := range c.disks.All() {
		if v := d.Volume(); v != nil {
			if st := d.State(); st.SnapshotOf == (volume.ID{}) {
				if n := v.Account().Dirty; n > bytes {
					most, bytes = d, n
				}
			}
		}
	}
	if most != nil && c.disks.Ctx.Err() == nil && most.Op.TryLock() {
		most.Op.Unlock()
		c.disks.BG.Go(func() {
			if _, err := c.publisher.Flush(c.disks.Ctx, most, ""); err != nil {
				c.err.Store(&err)
			}
		})
	}
}

// Throttle implements volume.Env.Throttle. It slows a volume over its dirty budget more
// and more, so that the flush in progress catches up. If the store cannot take the flush,
// only the local disk limits the volume.
func (c *Cleaner) Throttle(v *volume.Volume, n int) error {
	if c == nil {
		return nil
	}
	dirty := v.DirtyBytes()
	if dirty < int64(c.leastBudget.Load()) {
		return nil
	}
	st := v.State()
	budget := int64(c.budget(&st))
	if dirty <= budget {
		return nil
	}
	c.Wake()
	if c.err.Load() != nil {
		return nil
	}
	// At a quarter over budget, a write of 4 KiB takes 10 ms.
	over := float64(dirty-budget) / float64(budget/4+1)
	delay := time.Duration(min(over, 4) * float64(10*time.Millisecond) * float64(max(n, 4096)) / 4096)
	return clock.Pause(c.disks.Ctx, min(delay, time.Second))
}

// NoteBudget updates the smallest dirty budget of any volume.
func (c *Cleaner) NoteBudget(st *volume.State) {
	b := c.budget(st)
	for {
		least := c.leastBudget.Load()
		if b >= least || c.leastBudget.CompareAndSwap(least, b) {
			return
		}
	}
}
