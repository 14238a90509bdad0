package host

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// cleaner keeps the log within its budget: it copies what is live out of
// segments that are mostly dead, and flushes volumes that are over their own
// budget. Writers that meet a full log wait for it.
type cleaner struct {
	h              *Host
	poke           chan struct{}
	rounds         atomic.Uint64 // finished looks at the log
	freed          atomic.Uint64 // segments
	err            atomic.Pointer[error]
	fullReportedAt atomic.Int64 // Uptime when a full log was last told of

}

func newCleaner(h *Host) *cleaner { return &cleaner{h: h, poke: make(chan struct{}, 1)} }

// wake makes the cleaner look again; it does not wait.
func (c *cleaner) wake() {
	if c == nil {
		return // records saved while the host opens
	}
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

func (c *cleaner) run(ctx context.Context) {
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
		if pause(ctx, pauseBetween) != nil {
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
	shareRelaxed   = 0.6
	sharePressed   = 0.95
	victimsPerPass = 6
)

// clean does one pass and reports whether another may help.
func (c *cleaner) clean(ctx context.Context) bool {
	c.h.cleaning.Lock()
	defer c.h.cleaning.Unlock()
	var vols []*volume.Volume
	var live int64
	for _, d := range c.h.all() {
		if v := d.open(); v != nil {
			vols = append(vols, v)
			live += v.Account().Dirty
		}
	}
	used, _ := c.h.pool.Used()
	size := int64(c.h.pool.SegmentBytes())
	limit := c.h.pool.Limit()
	share := shareDead
	if used > 2*live+int64(len(vols))*size+slackSegments*size {
		share = shareRelaxed
	}
	if limit > 0 && float64(used) > nearLimit*float64(limit) {
		share = sharePressed
	}
	for _, vs := range volume.FindVictims(vols, share, victimsPerPass) {
		if vs.Size()-vs.Live < size || ctx.Err() != nil {
			continue // it would free no segment
		}
		if share == shareDead && (len(vs.Segments) < deadAtOnce || !vs.Settled()) {
			continue // not worth a record, or a sync that no guest asked for
		}
		done, err := volume.Clean(c.h.pool, vs)
		if errs.KindOf(err) == errs.Corrupt && err != nil {
			continue // told with the volumes; the segment stays as it is
		}
		if err != nil {
			c.h.event(eventDisk, "", "the log could not be cleaned: %v", err)
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
func (c *cleaner) flushOverBudget(ctx context.Context) {
	for _, d := range c.h.all() {
		v := d.open()
		if v == nil || ctx.Err() != nil {
			continue
		}
		st := d.state()
		if st.SnapshotOf == (volume.ID{}) && v.Account().Dirty > int64(c.h.budget(&st)) {
			if _, err := c.h.flush(ctx, d, ""); err != nil {
				if c.err.Swap(&err) == nil {
					c.h.event(eventStore, d.String(), "it is over its dirty budget and cannot be flushed: %v", err)
				}
			} else if c.err.Swap(nil) != nil {
				c.h.event(eventStore, d.String(), "it was over its dirty budget and could be flushed")
			}
		}
	}
}

func (h *Host) budget(st *volume.State) uint64 {
	if st.Limits.DirtyBudget > 0 {
		return st.Limits.DirtyBudget
	}
	return h.cfg.DirtyBudget
}

// pressure implements volume.Env.Pressure: bounded, writers are slowed first.
func (c *cleaner) pressure(v *volume.Volume, waited time.Duration) error {
	if waited > c.h.cfg.RoomWait {
		if at := int64(c.h.cfg.Uptime()); at > c.fullReportedAt.Swap(at)+int64(time.Minute) {
			c.h.event(eventDisk, "", "the log has no room, and none could be made: writers get an error until there is some")
		}
		c.relieve()
		return errs.New(errs.NoSpace, "the log has no room, and none could be made")
	}
	before := c.rounds.Load()
	c.wake()
	for range 20 {
		if err := pause(c.h.ctx, 10*time.Millisecond); err != nil {
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
func (c *cleaner) relieve() {
	var most *disk
	var bytes int64
	for _, d := range c.h.all() {
		if v := d.open(); v != nil {
			if st := d.state(); st.SnapshotOf == (volume.ID{}) {
				if n := v.Account().Dirty; n > bytes {
					most, bytes = d, n
				}
			}
		}
	}
	if most != nil && c.h.ctx.Err() == nil && most.op.TryLock() {
		most.op.Unlock()
		c.h.bg.Go(func() {
			if _, err := c.h.flush(c.h.ctx, most, ""); err != nil {
				c.err.Store(&err)
			}
		})
	}
}

// throttle implements volume.Env.Throttle: beyond its dirty budget a volume is
// slowed more and more, so that the flush which is under way catches up. When
// the store cannot take the flush, the disk itself is the limit.
func (h *Host) throttle(v *volume.Volume, n int) error {
	if h.cleaner == nil {
		return nil
	}
	dirty := v.DirtyBytes()
	if dirty < int64(h.leastBudget.Load()) {
		return nil
	}
	st := v.State()
	budget := int64(h.budget(&st))
	if dirty <= budget {
		return nil
	}
	h.cleaner.wake()
	if h.cleaner.err.Load() != nil {
		return nil
	}
	// At a quarter beyond the budget a write of 4 KiB takes 10 ms.
	over := float64(dirty-budget) / float64(budget/4+1)
	delay := time.Duration(min(over, 4) * float64(10*time.Millisecond) * float64(max(n, 4096)) / 4096)
	return pause(h.ctx, min(delay, time.Second))
}

// noteBudget keeps the smallest dirty budget of any volume.
func (h *Host) noteBudget(st *volume.State) {
	b := h.budget(st)
	for {
		least := h.leastBudget.Load()
		if b >= least || h.leastBudget.CompareAndSwap(least, b) {
			return
		}
	}
}
