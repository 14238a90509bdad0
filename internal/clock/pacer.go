package clock

import (
	"context"
	"time"
)

// Pacer spreads work over time. It is for one goroutine.
type Pacer struct {
	rate   uint64 // bytes a second; 0: no limit
	uptime func() time.Duration
	began  time.Duration
	bytes  int64
}

// NewPacer returns a pacer whose time begins now, for so many bytes a second; 0: no limit.
func NewPacer(rate uint64, uptime func() time.Duration) *Pacer {
	return &Pacer{rate: rate, uptime: uptime, began: uptime()}
}

// Wait waits until so many bytes more may be moved. The error is the context's.
func (p *Pacer) Wait(ctx context.Context, bytes int64) error {
	if p.rate > 0 {
		due := p.began + time.Duration(float64(p.bytes)/float64(p.rate)*float64(time.Second))
		p.bytes += bytes
		_ = Pause(ctx, due-p.uptime()) // which fails only with the context
	}
	return ctx.Err()
}
