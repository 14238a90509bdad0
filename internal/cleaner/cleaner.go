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

// Cleaner keeps the log within its budget: it copies what is live out of
// segments that are mostly dead, and flushes volumes that are over their own
// budget. Writers that meet a full log wait for it.
type Cleaner struct {
	Options
	disks     *disk.Table
	publisher *publication.Publisher

	idlers idlers

	poke           chan struct{}
	rounds         atomic.Uint64 // finished looks at the log
	freed          atomic.Uint64 // segments
	err            atomic.Pointer[error]
	fullReportedAt atomic.Int64 // Uptime when a full log was last reported

	// leastBudget is the smallest dirty budget of any volume: below it no write
	// needs to look further.
	leastBudget atomic.Uint64
}

// Options are the bounds that a cleaner keeps.
type Options struct {
	DirtyBudget uint64        // bytes that a volume without a limit of its own may hold unpublished
	RoomWait    time.Duration // how long a writer waits for room in the log before it gets an error
}

// New returns a cleaner, which works once run is called.
func New(o Options, t *disk.Table, pub *publication.Publisher) *Cleaner {
	c := &Cleaner{Options: o, disks: t, publisher: pub, poke: make(chan struct{}, 1)}
	c.leastBudget.Store(o.DirtyBudget)
	return c
}

// FlushError is why a volume that is over its budget could not be flushed, nil if
// none is.
func (c *Cleaner) FlushError() error {
	if e := c.err.Load(); e != nil {
		return *e
	}
	return nil
}

// Wake makes the cleaner look again; it does not wait.
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

// pauseBetween bounds how often the log is looked at.
const pauseBetween = 5 * time.Millisecond

// Thresholds of cleaning. Segments that are dead but for a trace go at once: they
// cost next to nothing, and what is recycled while it is still in memory is
// cheapest to write again. Copying begins when the log is twice what is live of
// it, and some slack; near the log's limit, whatever is to be gained.
const (
	slackSegments  = 6
	nearLimit      = 0.8
	shareDead      = 0.02
	deadAtOnce     = 3
	shareIdle      = 0.5
	shareRelaxed   = 0.6
	sharePressed   = 0.95
	victimsPerPass = 6
	leastGain      = 8 // the part of the victims that cleaning has to free
)

// clean does one pass and reports whether another may help.
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

// cleanSome cleans the first victims that are worth it, and tells whether there were
// any; idle: of volumes that are idle only.
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
			continue // told with the volumes; the segment stays as it is
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

// flushOverBudget publishes volumes that hold more than they may.
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

// Pressure implements volume.Env.Pressure: bounded, writers are slowed first.
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

// relieve flushes the volume with the most dirty data, so that its log can go.
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

// Throttle implements volume.Env.Throttle: beyond its dirty budget a volume is
// slowed more and more, so that the flush which is under way catches up. When
// the store cannot take the flush, the disk itself is the limit.
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
	// At a quarter beyond the budget a write of 4 KiB takes 10 ms.
	over := float64(dirty-budget) / float64(budget/4+1)
	delay := time.Duration(min(over, 4) * float64(10*time.Millisecond) * float64(max(n, 4096)) / 4096)
	return clock.Pause(c.disks.Ctx, min(delay, time.Second))
}

// NoteBudget keeps the smallest dirty budget of any volume.
func (c *Cleaner) NoteBudget(st *volume.State) {
	b := c.budget(st)
	for {
		least := c.leastBudget.Load()
		if b >= least || c.leastBudget.CompareAndSwap(least, b) {
			return
		}
	}
}
