package cleaner

import (
	"sync"
	"time"

	"github.com/paraglide/glide/internal/volume"
)

// A volume that wrote much once, and then little or nothing, is not to own a long
// segment: after a while it ends it, and what is live of it is copied to a short one.
const (
	idleAfter   = 30 * time.Second
	leastToEnd  = 4 << 20 // bytes of open segments that are worth ending
	idleOneTime = 4       // times its dirty bytes that an idle volume may have open
)

// idlers remembers which volumes have not been written lately.
type idlers struct {
	mu  sync.Mutex
	all map[volume.ID]idler
}

type idler struct {
	last  uint64        // newest write
	since time.Duration // uptime when it was first seen
	idle  bool
}

// FindIdle looks which volumes are idle, and ends the long segments of those. It is
// called every few seconds; its I/O is that of a sync for each volume that has just
// become idle.
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
					i.idle = false // it is looked at again, and says itself if it failed
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

// anyIdle tells whether a volume is idle, as FindIdle last saw it.
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

// allIdle tells whether all of the volumes are.
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
