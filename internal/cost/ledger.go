package cost

import (
	"context"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/objstore"
)

// counters are counters by cause.
type counters [causes]objstore.Counter

func (c *counters) counts() map[string]objstore.Counts {
	out := map[string]objstore.Counts{}
	for i := range c {
		if n := c[i].Counts(); n != (objstore.Counts{}) {
			out[names[i]] = n
		}
	}
	return out
}

// Ledger counts requests by cause, for a whole host and for each volume.
type Ledger struct {
	since   time.Time
	all     counters
	volumes sync.Map // Volume → *counters

	// Known reports whether the host has a volume. Requests for others are counted for the
	// host only, so the ledger holds no more volumes than the host. nil: all are known. It
	// is set before the first request.
	Known func(Volume) bool
}

// NewLedger returns a ledger that counts from now on.
func NewLedger(now time.Time) *Ledger { return &Ledger{since: now} }

// Since is when the counting began.
func (l *Ledger) Since() time.Time { return l.since }

// Counts returns what was counted so far, by the names of causes. Causes without requests
// are left out.
func (l *Ledger) Counts() map[string]objstore.Counts { return l.all.counts() }

// VolumeCounts is Counts for the requests that were made for one volume.
func (l *Ledger) VolumeCounts(v Volume) map[string]objstore.Counts {
	if c, ok := l.volumes.Load(v); ok {
		return c.(*counters).counts()
	}
	return map[string]objstore.Counts{}
}

// Forget drops the counters of a volume that was removed.
func (l *Ledger) Forget(v Volume) { l.volumes.Delete(v) }

// count derives the context of one request.
func (l *Ledger) count(ctx context.Context) context.Context {
	p := purposeOf(ctx)
	ctx = objstore.WithCounter(ctx, &l.all[p.cause])
	if p.volume == (Volume{}) {
		return ctx
	}
	c, ok := l.volumes.Load(p.volume)
	if !ok {
		if l.Known != nil && !l.Known(p.volume) {
			return ctx
		}
		c, _ = l.volumes.LoadOrStore(p.volume, &counters{})
	}
	return objstore.WithCounter(ctx, &c.(*counters)[p.cause])
}

// Wrap returns s with its requests counted by the ledger. Below it, s must be counted by
// objstore.Count, as what objstore.Open returns is.
func (l *Ledger) Wrap(s objstore.Store) objstore.Store { return &counted{s, l} }

type counted struct {
	objstore.Store
	ledger *Ledger
}

// Reload makes the store read its credentials again.
func (s *counted) Reload(ctx context.Context) error { return objstore.Reload(ctx, s.Store) }

// SetEncryption is called by objstore.SetEncryption.
func (s *counted) SetEncryption(by objstore.EncryptFor) error {
	return objstore.SetEncryption(s.Store, by)
}

// Get implements objstore.Store.
func (s *counted) Get(ctx context.Context, key string) ([]byte, error) {
	return s.Store.Get(s.ledger.count(ctx), key)
}

// GetRange implements objstore.Store.
func (s *counted) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	return s.Store.GetRange(s.ledger.count(ctx), key, off, n)
}

// Put implements objstore.Store.
func (s *counted) Put(ctx context.Context, key string, data []byte) error {
	return s.Store.Put(s.ledger.count(ctx), key, data)
}

// PutIfAbsent implements objstore.Store.
func (s *counted) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return s.Store.PutIfAbsent(s.ledger.count(ctx), key, data)
}

// Head implements objstore.Store.
func (s *counted) Head(ctx context.Context, key string) (objstore.Info, error) {
	return s.Store.Head(s.ledger.count(ctx), key)
}

// List implements objstore.Store.
func (s *counted) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	return s.Store.List(s.ledger.count(ctx), prefix, after, limit)
}

// Delete implements objstore.Store.
func (s *counted) Delete(ctx context.Context, key string) error {
	return s.Store.Delete(s.ledger.count(ctx), key)
}

// DeleteBatch implements objstore.Store.
func (s *counted) DeleteBatch(ctx context.Context, keys []string) error {
	return s.Store.DeleteBatch(s.ledger.count(ctx), keys)
}
