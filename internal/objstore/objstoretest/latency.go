package objstoretest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// LatencyOptions say how slow a store is to seem.
type LatencyOptions struct {
	Fixed  time.Duration  // before every request
	Jitter time.Duration  // up to so much more, evenly spread
	Rate   int64          // bytes per second of one request's data; 0: unlimited
	Clock  objstore.Clock // only Sleep is used
	Rand   func() float64 // in [0,1); nil: the process's own
}

type latency struct {
	objstore.Store
	o LatencyOptions
}

// Latency returns s with a delay before every request, and with its data at a
// limited rate.
func Latency(s objstore.Store, o LatencyOptions) objstore.Store {
	if o.Clock.Sleep == nil {
		o.Clock.Sleep = sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	return &latency{s, o}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// contextError is what a request fails with whose context ended.
func contextError(op objstore.Op, key string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.New(errs.Unavailable, "%s %s: no answer in time: %w", op, key, err)
	}
	return fmt.Errorf("%s %s: %w", op, key, err)
}

// wait passes the time of a request that moves size bytes.
func (l *latency) wait(ctx context.Context, op objstore.Op, key string, size int) error {
	d := l.o.Fixed + time.Duration(l.o.Rand()*float64(l.o.Jitter)) + l.transfer(size)
	if d == 0 {
		return nil
	}
	if err := l.o.Clock.Sleep(ctx, d); err != nil {
		return contextError(op, key, err)
	}
	return nil
}

func (l *latency) transfer(size int) time.Duration {
	if l.o.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(size) / float64(l.o.Rate) * float64(time.Second))
}

// receive passes the time of an answer's data.
func (l *latency) receive(ctx context.Context, op objstore.Op, key string, data []byte) ([]byte, error) {
	if d := l.transfer(len(data)); d > 0 {
		if err := l.o.Clock.Sleep(ctx, d); err != nil {
			return nil, contextError(op, key, err)
		}
	}
	return data, nil
}

func (l *latency) Get(ctx context.Context, key string) ([]byte, error) {
	if err := l.wait(ctx, objstore.OpGet, key, 0); err != nil {
		return nil, err
	}
	data, err := l.Store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return l.receive(ctx, objstore.OpGet, key, data)
}

func (l *latency) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := l.wait(ctx, objstore.OpGetRange, key, 0); err != nil {
		return nil, err
	}
	data, err := l.Store.GetRange(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return l.receive(ctx, objstore.OpGetRange, key, data)
}

func (l *latency) Put(ctx context.Context, key string, data []byte) error {
	if err := l.wait(ctx, objstore.OpPut, key, len(data)); err != nil {
		return err
	}
	return l.Store.Put(ctx, key, data)
}

func (l *latency) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := l.wait(ctx, objstore.OpPutIfAbsent, key, len(data)); err != nil {
		return err
	}
	return l.Store.PutIfAbsent(ctx, key, data)
}

func (l *latency) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := l.wait(ctx, objstore.OpHead, key, 0); err != nil {
		return objstore.Info{}, err
	}
	return l.Store.Head(ctx, key)
}

func (l *latency) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := l.wait(ctx, objstore.OpList, prefix, 0); err != nil {
		return nil, err
	}
	return l.Store.List(ctx, prefix, after, limit)
}

func (l *latency) Delete(ctx context.Context, key string) error {
	if err := l.wait(ctx, objstore.OpDelete, key, 0); err != nil {
		return err
	}
	return l.Store.Delete(ctx, key)
}

func (l *latency) DeleteBatch(ctx context.Context, keys []string) error {
	if err := l.wait(ctx, objstore.OpDeleteBatch, fmt.Sprintf("%d keys", len(keys)), 0); err != nil {
		return err
	}
	return l.Store.DeleteBatch(ctx, keys)
}
