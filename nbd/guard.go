package nbd

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
)

// errPanicked is the answer to a request in which the device panicked.
var errPanicked = fmt.Errorf("the server met a bug, and its log has the details: %w", EIO)

// errBug ends a connection in which the server itself panicked.
var errBug = errors.New("the server met a bug")

// guard is a Device whose panics end the request in which they happen, and
// nothing else.
type guard struct {
	dev    Device
	acks   Acknowledger // nil if dev has no say in when a write is acknowledged
	limits Limiter      // nil if dev has no limits
	srv    *Server
}

func newGuard(dev Device, srv *Server) *guard {
	g := &guard{dev: dev, srv: srv}
	g.acks, _ = dev.(Acknowledger)
	g.limits, _ = dev.(Limiter)
	return g
}

// caught turns a panic into an error. It has to be deferred itself.
func (g *guard) caught(err *error) {
	if v := recover(); v != nil {
		*err = g.srv.panicked(v)
	}
}

func (g *guard) size() (n uint64, err error) {
	defer g.caught(&err)
	return g.dev.Size(), nil
}

func (g *guard) readAt(p []byte, off uint64) (err error) {
	defer g.caught(&err)
	return g.dev.ReadAt(p, off)
}

// tryReadAt is false after a panic: readAt then has the answer.
func (g *guard) tryReadAt(p []byte, off uint64) (ok bool) {
	var err error
	defer g.caught(&err)
	return g.dev.TryReadAt(p, off)
}

func (g *guard) writeFrames(offs []uint64, frames [][]byte) (err error) {
	defer g.caught(&err)
	return g.dev.WriteFrames(offs, frames)
}

func (g *guard) zero(off, length uint64, punch bool) (err error) {
	defer g.caught(&err)
	return g.dev.Zero(off, length, punch)
}

func (g *guard) flush() (err error) {
	defer g.caught(&err)
	return g.dev.Flush()
}

func (g *guard) prefetch(off, length uint64) (err error) {
	defer g.caught(&err)
	g.dev.Prefetch(off, length)
	return nil
}

func (g *guard) extents(dst []Extent, context string, off, length uint64) (all []Extent, err error) {
	defer g.caught(&err)
	return g.dev.Extents(dst, context, off, length)
}

func (g *guard) flushWaits() (yes bool) {
	var err error
	defer g.caught(&err)
	return g.acks != nil && g.acks.FlushWaits()
}

// tryAcknowledge is false after a panic: acknowledge then has the answer.
func (g *guard) tryAcknowledge() (ok bool) {
	var err error
	defer g.caught(&err)
	return g.acks.TryAcknowledge()
}

func (g *guard) acknowledge() (err error) {
	defer g.caught(&err)
	return g.acks.Acknowledge()
}

// tryAdmit is false after a panic: admit then has the answer.
func (g *guard) tryAdmit(bytes int) (ok bool) {
	var err error
	defer g.caught(&err)
	return g.limits.TryAdmit(bytes)
}

func (g *guard) admit(bytes int) (err error) {
	defer g.caught(&err)
	return g.limits.Admit(bytes)
}

// protect calls fn, which calls the Exporter, or an Export of it.
func protect[T any](s *Server, fn func() (T, error)) (out T, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(v)
		}
	}()
	return fn()
}

// rescue ends the connection of a goroutine that panicked in the server's own
// code. It has to be deferred itself.
func (c *conn) rescue() {
	if v := recover(); v != nil {
		_ = c.srv.panicked(v)
		c.abort(errBug)
	}
}

// maxPlaces bounds the places that are remembered.
const maxPlaces = 256

// place is where a panic came from: the innermost callers.
type place [24]uintptr

// panics remembers where panics came from, so that each has its stack in the log once.
type panics struct {
	mu    sync.Mutex
	count uint64
	seen  map[place]struct{}
}

// add counts a panic, and tells whether it is the first from there.
func (p *panics) add(from place) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if _, known := p.seen[from]; known || len(p.seen) == maxPlaces {
		return false
	}
	if p.seen == nil {
		p.seen = make(map[place]struct{})
	}
	p.seen[from] = struct{}{}
	return true
}

// panicked counts and reports a panic, and returns the error for who waits for
// an answer. It is called while the stack is still that of the panic.
func (s *Server) panicked(v any) error {
	var from place
	runtime.Callers(3, from[:])
	stack := debug.Stack()
	if s.panics.add(from) {
		s.log.Error("nbd: a request panicked", "panic", fmt.Sprint(v), "stack", string(stack))
	} else {
		s.log.Error("nbd: a request panicked where one did before", "panic", fmt.Sprint(v))
	}
	if s.opt.OnPanic != nil {
		s.opt.OnPanic(v, stack)
	}
	return errPanicked
}
