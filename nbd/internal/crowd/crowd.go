// Package crowd lets the connections of a server wait for their clients in the way that
// suits the load.
//
// A connection's goroutine usually sleeps in the runtime's poller, which wakes it within
// microseconds while threads are free. When one client floods the server, threads are not
// free, and the goroutines of all clients take turns on the same few: a quiet client's
// request waits until the flooding one's goroutine gives way, which may be 10 ms. The
// kernel does better: it prefers a thread that has slept to one that has worked. So while
// clients compete, each waits on a thread of its own.
//
// Lock: Crowd.mu, held over no I/O.
package crowd

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	crowdedAt = 0.15                   // part of all processors that the process uses
	lasts     = 500 * time.Millisecond // after it used that much, and after a connection's last request
	often     = 20 * time.Millisecond  // between looks while more than one connection is in use
	seldom    = 500 * time.Millisecond // between looks otherwise
	wait      = 100 * time.Millisecond // after this, a thread looks whether it is still wanted
	waits     = 10                     // an idle connection gives its thread back after so many
)

// Crowd is the connections of a server. The zero Crowd has none.
type Crowd struct {
	on atomic.Bool

	mu      sync.Mutex
	members map[*Member]struct{}
	timer   *time.Timer   // nil while there are fewer than two
	joined  time.Time     // when the last one joined
	until   time.Time     // until when on stays true
	at      time.Time     // the last look
	used    time.Duration // the processor time of the process at that time
}

// Member is one connection. One goroutine calls Wait and Leave.
type Member struct {
	crowd    *Crowd
	turns    *atomic.Uint64
	onThread bool
	woken    atomic.Bool

	seen  uint64 // of turns; the rest is guarded by Crowd.mu
	moved time.Time
}

// Join adds a connection. turns is a number that changes with each of its requests.
func (c *Crowd) Join(turns *atomic.Uint64) *Member {
	m := &Member{crowd: c, turns: turns}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members == nil {
		c.members = map[*Member]struct{}{}
	}
	c.members[m] = struct{}{}
	c.joined = time.Now()
	switch {
	case len(c.members) < 2:
	case c.timer == nil:
		c.at, c.used = c.joined, processTime()
		c.timer = time.AfterFunc(often, c.look)
	default:
		c.timer.Reset(often)
	}
	return m
}

// Leave removes the connection.
func (m *Member) Leave() {
	m.release()
	c := m.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.members, m); len(c.members) < 2 && c.timer != nil {
		c.timer.Stop()
		c.timer = nil
		c.on.Store(false)
	}
}

// look measures how many connections are in use and what the process uses.
func (c *Crowd) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		return
	}
	now, used, busy := time.Now(), processTime(), 0
	for m := range c.members {
		if t := m.turns.Load(); t != m.seen {
			m.seen, m.moved = t, now
		}
		if now.Sub(m.moved) < lasts {
			busy++
		}
	}
	share := float64(used-c.used) / float64(now.Sub(c.at)) / float64(runtime.NumCPU())
	if busy > 1 && share > crowdedAt {
		c.until = now.Add(lasts)
	}
	c.at, c.used = now, used
	c.on.Store(now.Before(c.until))
	if busy > 1 || now.Sub(c.joined) < time.Second {
		c.timer.Reset(often)
	} else {
		c.timer.Reset(seldom)
	}
}

// Wait returns when the socket can be read, or when the runtime's poller may as well wait
// for it: the caller goes on with a read. After Wake, it returns within 100 ms.
func (m *Member) Wait(socket syscall.RawConn) {
	for range waits {
		if !m.crowd.on.Load() {
			break
		}
		if !m.onThread {
			runtime.LockOSThread()
			m.onThread = true
		}
		if readable(socket, wait) || m.woken.Load() {
			return
		}
	}
	m.release()
}

// Wake makes Wait return, and Awake lets it wait again. Anyone may call them.
func (m *Member) Wake() { m.woken.Store(true) }

// Awake undoes Wake.
func (m *Member) Awake() { m.woken.Store(false) }

// release gives the thread back.
func (m *Member) release() {
	if m.onThread {
		runtime.UnlockOSThread()
		m.onThread = false
	}
}
