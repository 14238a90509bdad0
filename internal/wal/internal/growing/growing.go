// Package growing has lists that one goroutine extends while others read.
package growing

import "sync/atomic"

// List is a list of which the first n items do not change, and can be read by anybody. One
// goroutine at a time queues items behind them, and then keeps or drops what it queued. The
// zero List is empty.
type List[T any] struct{ now atomic.Pointer[state[T]] }

type state[T any] struct {
	all    []T
	n      atomic.Int32
	queued int32 // items after n
}

// least is the first capacity: a page of memory, with items of 12 bytes.
const least = 340

// Queue adds an item that nobody sees yet. Readers of the list are not disturbed.
func (l *List[T]) Queue(item T) {
	s := l.now.Load()
	if s == nil {
		s = &state[T]{all: make([]T, least)}
		l.now.Store(s)
	}
	n := s.n.Load() + s.queued
	if int(n) == len(s.all) {
		more := &state[T]{all: make([]T, 2*len(s.all)), queued: s.queued}
		copy(more.all, s.all)
		more.n.Store(s.n.Load())
		l.now.Store(more)
		s = more
	}
	s.all[n] = item
	s.queued++
}

// Queued returns how many items the list has, with those that nobody sees yet.
func (l *List[T]) Queued() int32 {
	if s := l.now.Load(); s != nil {
		return s.n.Load() + s.queued
	}
	return 0
}

// Keep makes the queued items visible. Drop discards them.
func (l *List[T]) Keep() {
	if s := l.now.Load(); s != nil {
		s.n.Add(s.queued)
		s.queued = 0
	}
}

// Drop discards the queued items.
func (l *List[T]) Drop() {
	if s := l.now.Load(); s != nil {
		s.queued = 0
	}
}

// Trim frees the spare capacity once no more items will come.
func (l *List[T]) Trim() {
	s := l.now.Load()
	if s == nil {
		return
	}
	n := s.n.Load()
	less := &state[T]{all: make([]T, n)}
	copy(less.all, s.all)
	less.n.Store(n)
	l.now.Store(less)
}

// Clear makes the list empty.
func (l *List[T]) Clear() { l.now.Store(nil) }

// Empty reports whether nothing was ever queued since the list was cleared.
func (l *List[T]) Empty() bool { return l.now.Load() == nil }

// All returns the visible items.
func (l *List[T]) All() []T {
	if s := l.now.Load(); s != nil {
		return s.all[:s.n.Load()]
	}
	return nil
}
