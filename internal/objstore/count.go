package objstore

import (
	"context"
	"sync/atomic"
)

// Counts are requests made, by kind as a bill has them, and bytes of objects
// moved. A batch of deletions counts as one deletion for each thousand keys.
type Counts struct {
	Put, Get, List, Head, Delete uint64 // requests, failed ones included
	BytesUp                      uint64 // sent, whether or not it was taken
	BytesDown                    uint64 // received
}

// Requests is the number of requests of all kinds.
func (c Counts) Requests() uint64 { return c.Put + c.Get + c.List + c.Head + c.Delete }

// Add is the sum of both.
func (c Counts) Add(d Counts) Counts {
	return Counts{
		Put: c.Put + d.Put, Get: c.Get + d.Get, List: c.List + d.List, Head: c.Head + d.Head, Delete: c.Delete + d.Delete,
		BytesUp: c.BytesUp + d.BytesUp, BytesDown: c.BytesDown + d.BytesDown,
	}
}

// Sub is what was counted since earlier.
func (c Counts) Sub(earlier Counts) Counts {
	return Counts{
		Put: c.Put - earlier.Put, Get: c.Get - earlier.Get, List: c.List - earlier.List,
		Head: c.Head - earlier.Head, Delete: c.Delete - earlier.Delete,
		BytesUp: c.BytesUp - earlier.BytesUp, BytesDown: c.BytesDown - earlier.BytesDown,
	}
}

// Counter adds requests up. The zero Counter is ready; it may be used
// concurrently.
type Counter struct {
	put, get, list, head, delete, up, down atomic.Uint64
}

// Counts is what was counted so far.
func (c *Counter) Counts() Counts {
	return Counts{
		Put: c.put.Load(), Get: c.get.Load(), List: c.list.Load(), Head: c.head.Load(), Delete: c.delete.Load(),
		BytesUp: c.up.Load(), BytesDown: c.down.Load(),
	}
}

type counterKey struct{}

// WithCounter derives a context whose requests are counted by c, too (and
// by those of the contexts above): the bill of one fork or flush among many.
func WithCounter(ctx context.Context, c *Counter) context.Context {
	return context.WithValue(ctx, counterKey{}, &counters{c, countersOf(ctx)})
}

// counters are those of a context, the innermost first.
type counters struct {
	counter *Counter
	outer   *counters
}

func countersOf(ctx context.Context) *counters {
	c, _ := ctx.Value(counterKey{}).(*counters)
	return c
}

// counting counts the requests that reach the store below it.
type counting struct {
	Store
	total *Counter
}

// Count returns s with its requests counted by c and by the counters of their
// contexts. Below a retrying wrapper it counts every try.
func Count(s Store, c *Counter) Store { return &counting{s, c} }

func (s *counting) each(ctx context.Context, add func(*Counter)) {
	add(s.total)
	for c := countersOf(ctx); c != nil; c = c.outer {
		add(c.counter)
	}
}

func (s *counting) received(ctx context.Context, data []byte) {
	s.each(ctx, func(c *Counter) { c.get.Add(1); c.down.Add(uint64(len(data))) })
}

func (s *counting) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := s.Store.Get(ctx, key)
	s.received(ctx, data)
	return data, err
}

func (s *counting) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	data, err := s.Store.GetRange(ctx, key, off, n)
	s.received(ctx, data)
	return data, err
}

func (s *counting) sent(ctx context.Context, data []byte) {
	s.each(ctx, func(c *Counter) { c.put.Add(1); c.up.Add(uint64(len(data))) })
}

func (s *counting) Put(ctx context.Context, key string, data []byte) error {
	s.sent(ctx, data)
	return s.Store.Put(ctx, key, data)
}

func (s *counting) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	s.sent(ctx, data)
	return s.Store.PutIfAbsent(ctx, key, data)
}

func (s *counting) Head(ctx context.Context, key string) (Info, error) {
	s.each(ctx, func(c *Counter) { c.head.Add(1) })
	return s.Store.Head(ctx, key)
}

func (s *counting) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	s.each(ctx, func(c *Counter) { c.list.Add(1) })
	return s.Store.List(ctx, prefix, after, limit)
}

func (s *counting) Delete(ctx context.Context, key string) error {
	s.each(ctx, func(c *Counter) { c.delete.Add(1) })
	return s.Store.Delete(ctx, key)
}

func (s *counting) DeleteBatch(ctx context.Context, keys []string) error {
	requests := uint64((len(keys) + batch - 1) / batch)
	s.each(ctx, func(c *Counter) { c.delete.Add(requests) })
	return s.Store.DeleteBatch(ctx, keys)
}
