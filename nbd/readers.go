package nbd

import (
	"sync"
	"time"

	"github.com/paraglide/glide/nbd/internal/fifo"
	"github.com/paraglide/glide/nbd/internal/wire"
)

// job is a request whose answer may have to wait for a disk or a network.
type job struct {
	req   wire.Request
	owed  int // bytes promised for it
	start time.Time
}

// readers is the server's pool of goroutines for jobs. They exist only while
// there is work. Connections take turns, and none may have more than perConn of
// them, so that one whose data is far away does not hold up the others.
type readers struct {
	max     int
	perConn int
	wg      *sync.WaitGroup // counts the goroutines

	mu      sync.Mutex
	running int
	ready   fifo.Queue[*conn] // each with a job that may start, each once
}

// jobs are a connection's in the pool. Guarded by readers.mu.
type jobs struct {
	waiting fifo.Queue[job]
	working int
	listed  bool // in readers.ready
}

// submit queues j and sees to it that somebody takes it.
func (r *readers) submit(c *conn, j job) {
	r.mu.Lock()
	c.jobs.waiting.Push(j)
	r.listLocked(c)
	hire := r.running < r.max && r.ready.Len() > 0
	if hire {
		r.running++
	}
	r.mu.Unlock()
	if hire {
		r.wg.Go(r.work)
	}
}

func (r *readers) listLocked(c *conn) {
	if !c.jobs.listed && c.jobs.working < r.perConn && c.jobs.waiting.Len() > 0 {
		c.jobs.listed = true
		r.ready.Push(c)
	}
}

// work does jobs until there are none.
func (r *readers) work() {
	r.mu.Lock()
	for r.ready.Len() > 0 {
		c := r.ready.Pop()
		j := c.jobs.waiting.Pop()
		c.jobs.listed = false
		c.jobs.working++
		r.listLocked(c)
		r.mu.Unlock()
		c.perform(j)
		r.mu.Lock()
		c.jobs.working--
		r.listLocked(c)
	}
	r.running--
	r.mu.Unlock()
}
