package nbd

import (
	"slices"

	"github.com/paraglide/glide/nbd/internal/wire"
)

// written answers a write that the device has made, unless the device wants
// that acknowledged later; settleAcks sees to those.
func (c *conn) written(p pending) {
	if c.dev.acks == nil || len(c.unacked) == 0 && c.dev.tryAcknowledge() {
		c.answer(p, nil)
		return
	}
	c.unacked = append(c.unacked, p)
}

// settleAcks hands the collected writes to a goroutine that answers them once
// the device lets it: what comes next, reads above all, is handled meanwhile.
func (c *conn) settleAcks() {
	if len(c.unacked) > 0 {
		c.later(c.unacked, func([]pending) error { return c.dev.acknowledge() })
		c.unacked = c.unacked[:0]
	}
}

// flushAndAcknowledge is the flush of a device whose flushes wait for long.
func (c *conn) flushAndAcknowledge(batch []pending) error {
	if err := c.dev.flush(); err != nil {
		return err
	}
	if slices.ContainsFunc(batch, func(p pending) bool { return p.fua }) {
		return c.dev.acknowledge()
	}
	return nil
}

// later answers a batch when wait returns, in a goroutine of its own: batches do
// not wait for each other.
func (c *conn) later(batch []pending, wait func([]pending) error) {
	n := len(batch)
	if !c.out.tryPromise(n, n*wire.SimpleReplySize) {
		c.send()
		if c.lost = c.out.promise(n, n*wire.SimpleReplySize); c.lost != nil {
			return
		}
	}
	batch = slices.Clone(batch)
	c.srv.wg.Go(func() {
		defer c.rescue()
		c.answerAll(batch, wait(batch))
	})
}
