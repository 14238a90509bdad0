package nbd

import (
	"sync"

	"github.com/paraglide/glide/nbd/internal/wire"
)

// flusher makes one flush of the device serve all who wait for one on a
// connection. Its goroutine exists while somebody waits.
type flusher struct {
	mu      sync.Mutex
	waiting []pending // for the next flush; the promises for them are made
	running bool
}

// awaitFlush answers p after a flush that begins later than now.
func (c *conn) awaitFlush(p pending) {
	c.flushes = append(c.flushes, p)
	if len(c.flushes) == maxFlushes {
		c.settleFlushes()
	}
}

// settleFlushes sees to the flushes that were collected. A lone one is done
// here: the client waits for it and for nothing else, so there is nothing to
// receive meanwhile, and handing over would only cost time. Otherwise they go
// to the flusher, so that what comes next is received while the device flushes,
// and may share the flush after.
//
// flush-is-durable: a flush is answered only after a call of Device.Flush that
// began after the flush was received, so after every write whose reply the client
// can have seen by then, on whatever connection.
func (c *conn) settleFlushes() {
	if len(c.flushes) == 0 {
		return
	}
	switch {
	case c.dev.flushWaits():
		c.later(c.flushes, c.flushAndAcknowledge)
	case len(c.flushes) == 1 && c.r == c.w && c.out.quiet():
		c.send()
		c.answer(c.flushes[0], c.dev.flush())
	default:
		c.handOver()
	}
	c.flushes = c.flushes[:0]
}

// handOver gives the collected flushes to the flusher.
func (c *conn) handOver() {
	n := len(c.flushes)
	if !c.out.tryPromise(n, n*wire.SimpleReplySize) {
		c.send()
		if c.lost = c.out.promise(n, n*wire.SimpleReplySize); c.lost != nil {
			return
		}
	}
	f := &c.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, c.flushes...)
	if !f.running {
		f.running = true
		c.srv.wg.Go(c.flush)
	}
}

// flush flushes until nobody waits.
func (c *conn) flush() {
	f := &c.flusher
	var batch []pending
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.waiting) > 0 {
		batch, f.waiting = f.waiting, batch[:0]
		f.mu.Unlock()
		c.flushFor(batch)
		f.mu.Lock()
	}
	f.running = false
}

// flushFor flushes, and answers those who wait for that.
func (c *conn) flushFor(batch []pending) {
	defer c.rescue()
	c.answerAll(batch, c.dev.flush())
}

// answerAll answers requests whose replies were promised.
func (c *conn) answerAll(batch []pending, err error) {
	size := wire.SimpleReplySize
	if err != nil {
		size = maxRefusal
	}
	buf := getBuffer(len(batch) * size)
	reply := buf.b[:0]
	for _, p := range batch {
		c.observe(p.op, p.bytes, p.start)
		if err != nil {
			reply = c.appendRefusal(reply, refusalOf(p.cookie, p.op, err))
		} else {
			reply = wire.AppendSimpleReply(reply, wire.SimpleReply{Cookie: p.cookie})
		}
	}
	c.deliver(buf, len(reply), len(batch), len(batch)*wire.SimpleReplySize)
}
