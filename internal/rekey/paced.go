package rekey

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/objstore"
)

// paced is a store of which so many bytes a second are read and written, by all who use it
// together.
type paced struct {
	objstore.Store
	pace *clock.Pacer
	turn chan struct{} // holds a token while nobody waits
}

func newPaced(s objstore.Store, rate int64, uptime func() time.Duration) *paced {
	p := &paced{s, clock.NewPacer(uint64(rate), uptime), make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// moved waits for bytes that were moved. If the context ends, the next request says so.
func (p *paced) moved(ctx context.Context, n int) {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return
	}
	_ = p.pace.Wait(ctx, int64(n))
	p.turn <- struct{}{}
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
