package cleaner

import (
	"sync"
	"time"

	"github.com/paraglide/glide/internal/volume"
)

// An idle volume that once wrote much should not keep a long segment. After a while its
// segment is ended, and the live data is copied to a short one.
const (
	idleAfter   = 30 * time.Second
	leastToEnd  = 4 << 20 // bytes of open segments that make ending them worthwhile
	idleOneTime = 4       // an idle volume may have this many times its dirty bytes in open segments
)

// idlers remembers which volumes have not been written to lately.
type idlers struct {
	mu  sync.Mutex
	all map[volume.ID]idler
}

type idler struct {
	last  uint64        // the newest write
	since time.Duration // uptime when that write was first seen
	idle  bool
}

// FindIdle determines which volumes are idle, and ends their long segments. It is called
// every few seconds. Its only I/O is a sync for each volume that has just become idle.
func (c *Cleaner) FindIdle() {
	now, found := c.disks.Uptime(), map[volume.ID]idler{}
	some := false
	for _, d := range c.disks.All() {
		v := d.Volume()
		if v == nil || c.disks.Ctx.Err() != nil {
			continue
		}
		i := c.idlers.of(v.ID())
		if last := v.Last(); last != i.last || i.since == 0 {
			i = idler{last: last, since: now}
		}
		if !i.idle && now-i.since >= idleAfter {
			i.idle = true
			a := v.Account()
			if a.Open >= max(leastToEnd, idleOneTime*a.Dirty) {
				if err := v.ShrinkLog(); err != nil {
					i.idle = false // the next call tries again; if the volume failed, it reports that itself
				}
			}
			some = some || i.idle
		}
		found[v.ID()] = i
	}
	c.idlers.set(found)
	if some {
		c.Wake()
	}
}

func (x *idlers) of(id volume.ID) idler {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all[id]
}

func (x *idlers) set(all map[volume.ID]idler) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = all
}

// anyIdle reports whether any volume is idle, as FindIdle last saw it.
func (c *Cleaner) anyIdle() bool {
	c.idlers.mu.Lock()
	defer c.idlers.mu.Unlock()
	for _, i := range c.idlers.all {
		if i.idle {
			return true
		}
	}
	return false
}

// allIdle reports whether all of these volumes are idle.
func (c *Cleaner) allIdle(vols []*volume.Volume) bool {
	c.idlers.mu.Lock()
	defer c.idlers.mu.Unlock()
	for _, v := range vols {
		if !c.idlers.all[v.ID()].idle {
			return false
		}
	}
	return true
}
