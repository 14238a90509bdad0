package rekey

import (
	"context"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/objstore"
)

// paced is a store of which so many bytes a second are read and written.
type paced struct {
	objstore.Store
	rate  int64
	pause func(ctx context.Context, d time.Duration) error

	mu   sync.Mutex
	debt time.Duration
}

func newPaced(s objstore.Store, rate int64, pause func(context.Context, time.Duration) error) *paced {
	if pause == nil {
		pause = clock.Pause
	}
	return &paced{Store: s, rate: rate, pause: pause}
}

// atOnce is how much is paused at least: shorter pauses are saved up.
const atOnce = 10 * time.Millisecond

// moved waits for bytes that were moved.
func (p *paced) moved(ctx context.Context, n int) {
	p.mu.Lock()
	p.debt += time.Duration(float64(n) / float64(p.rate) * float64(time.Second))
	due := p.debt
	if due < atOnce {
		p.mu.Unlock()
		return
	}
	p.debt = 0
	p.mu.Unlock()
	_ = p.pause(ctx, due) // the next request says so
}

// Get implements objstore.Store.
func (p *paced) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := p.Store.Get(ctx, key)
	p.moved(ctx, len(b))
	return b, err
}

// GetRange implements objstore.Store.
func (p *paced) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := p.Store.GetRange(ctx, key, off, n)
	p.moved(ctx, len(b))
	return b, err
}

// PutIfAbsent implements objstore.Store.
func (p *paced) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	p.moved(ctx, len(data))
	return p.Store.PutIfAbsent(ctx, key, data)
}
