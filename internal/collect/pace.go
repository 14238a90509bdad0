package collect

import (
	"context"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/objstore"
)

const (
	// atATime is how many requests a round has under way while guests are served. Each of them
	// is followed by work on a processor that guests may want.
	atATime = 4
	// oneIn is which part of the time a round works while guests are served.
	oneIn = 20
	// credit is how much it may be ahead: pauses are not much shorter than that.
	credit = 10 * time.Millisecond
	// lookEvery is how often it looks whether guests are served.
	lookEvery = 100 * time.Millisecond

	// What a request may cost at most, however long it takes: waiting for a store that is far
	// away costs guests nothing.
	perRead  = 300 * time.Microsecond
	perWrite = 2 * time.Millisecond
	perKey   = 3 * time.Microsecond
	perMiB   = 4 * time.Millisecond
)

// paced is the store of a round beside guests. While they are served, the round has few
// requests under way, and works only a part of the time; else it takes what it needs.
type paced struct {
	objstore.Store
	served func() uint64 // requests of guests
	uptime func() time.Duration
	slots  chan struct{}

	mu     sync.Mutex
	looked time.Duration
	last   uint64 // requests of guests by then
	busy   bool
	until  time.Duration // when what was done will have been paid for
}

func newPaced(s objstore.Store, served func() uint64, uptime func() time.Duration) *paced {
	return &paced{Store: s, served: served, uptime: uptime, slots: make(chan struct{}, atATime), looked: uptime(), last: served()}
}

// look reports whether guests are served, and how far the round is ahead of its share.
func (p *paced) look() (busy bool, ahead time.Duration) {
	now := p.uptime()
	p.mu.Lock()
	defer p.mu.Unlock()
	if now-p.looked >= lookEvery {
		n := p.served()
		p.busy, p.last, p.looked = n != p.last, n, now
	}
	return p.busy, p.until - now
}

// do makes a request that costs so much at most, besides what fn returns.
func (p *paced) do(ctx context.Context, most time.Duration, fn func() time.Duration) {
	busy, ahead := p.look()
	for busy && ahead > credit && clock.Pause(ctx, min(ahead, lookEvery)) == nil {
		busy, ahead = p.look()
	}
	if busy {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-ctx.Done(): // the store says so
		}
	}
	began := p.uptime()
	most += fn()
	now := p.uptime()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		p.until = max(p.until, now) + oneIn*min(now-began, most)
	}
}

// bytes is what as many of them cost.
func bytes[N int | int64](n N) time.Duration { return time.Duration(n) * perMiB >> 20 }

// Get implements objstore.Store.
func (p *paced) Get(ctx context.Context, key string) (b []byte, err error) {
	p.do(ctx, perRead, func() time.Duration { b, err = p.Store.Get(ctx, key); return bytes(len(b)) })
	return b, err
}

// GetRange implements objstore.Store.
func (p *paced) GetRange(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	p.do(ctx, perRead, func() time.Duration { b, err = p.Store.GetRange(ctx, key, off, n); return bytes(n) })
	return b, err
}

// Head implements objstore.Store.
func (p *paced) Head(ctx context.Context, key string) (in objstore.Info, err error) {
	p.do(ctx, perRead, func() time.Duration { in, err = p.Store.Head(ctx, key); return 0 })
	return in, err
}

// List implements objstore.Store.
func (p *paced) List(ctx context.Context, prefix, after string, most int) (list []objstore.Info, err error) {
	p.do(ctx, perRead, func() time.Duration {
		list, err = p.Store.List(ctx, prefix, after, most)
		return time.Duration(len(list)) * perKey
	})
	return list, err
}

// Put implements objstore.Store.
func (p *paced) Put(ctx context.Context, key string, data []byte) (err error) {
	p.do(ctx, perWrite+bytes(len(data)), func() time.Duration { err = p.Store.Put(ctx, key, data); return 0 })
	return err
}

// PutIfAbsent implements objstore.Store.
func (p *paced) PutIfAbsent(ctx context.Context, key string, data []byte) (err error) {
	p.do(ctx, perWrite+bytes(len(data)), func() time.Duration { err = p.Store.PutIfAbsent(ctx, key, data); return 0 })
	return err
}

// DeleteBatch implements objstore.Store.
func (p *paced) DeleteBatch(ctx context.Context, keys []string) (err error) {
	p.do(ctx, perWrite+time.Duration(len(keys))*perRead, func() time.Duration { err = p.Store.DeleteBatch(ctx, keys); return 0 })
	return err
}
