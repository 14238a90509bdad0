package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// RetryOptions say how often and how long to try. Zero values are replaced by
// the defaults that are given with each field.
type RetryOptions struct {
	// MaxTries is the number of tries of one request (12).
	MaxTries int
	// MaxElapsed is the time after which no further try begins (30 s).
	MaxElapsed time.Duration
	// Backoff is the pause after the first failure (50 ms). It doubles with
	// every further one, up to MaxBackoff (5 s), and is shortened by up to a
	// half at random.
	Backoff, MaxBackoff time.Duration
	// SlowBackoff is the first pause where the store asks to slow down
	// (1 s); such pauses double up to four times MaxBackoff.
	SlowBackoff time.Duration
	// TryTimeout is what one try may take (10 s, later ones twice that), and
	// MinRate how many bytes per second an object then must move at least
	// (1 MiB/s); the time for those doubles with each try, to eightfold, so that a
	// slow link gets through. A request that the network swallowed, however, is
	// waited for no longer than has to be.
	TryTimeout time.Duration
	MinRate    int64
	// Clock and Rand default to the real ones.
	Clock Clock
	Rand  func() float64
	// OnRetry, if set, is told of each failed try that is followed by another.
	OnRetry func(op Op, key string, err error)
}

func (o RetryOptions) withDefaults() RetryOptions {
	o.MaxTries = positive(o.MaxTries, 12)
	o.MaxElapsed = positive(o.MaxElapsed, 30*time.Second)
	o.Backoff = positive(o.Backoff, 50*time.Millisecond)
	o.MaxBackoff = positive(o.MaxBackoff, 5*time.Second)
	o.SlowBackoff = positive(o.SlowBackoff, time.Second)
	o.TryTimeout = positive(o.TryTimeout, 10*time.Second)
	o.MinRate = positive(o.MinRate, 1<<20)
	o.Clock = o.Clock.withDefaults()
	o.Rand = randOrDefault(o.Rand)
	if o.OnRetry == nil {
		o.OnRetry = func(Op, string, error) {}
	}
	return o
}

func positive[T int | int64 | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// retrying repeats what failed with errs.Unavailable. Repeating is safe: of
// the requests that write, Put and Delete have the same effect twice, and
// PutIfAbsent is settled by reading back.
type retrying struct {
	Store
	o RetryOptions
}

// Retry returns s with failed requests repeated, each try with a deadline of
// its own.
func Retry(s Store, o RetryOptions) Store { return &retrying{s, o.withDefaults()} }

// unknownSize stands for the size of an object that is read without knowing
// it: commits and pins are far smaller, and later tries have more time.
const unknownSize = 8 << 20

// do tries until it succeeds, until more tries are pointless or until time is
// up. size is the number of bytes to be moved.
func (r *retrying) do(ctx context.Context, op Op, key string, size int64, try func(context.Context) error) error {
	start := r.o.Clock.Now()
	gone := retryBudget(ctx)
	for n := 1; ; n++ {
		limit := r.within(n, size, gone.Load())
		if op.reads() { // what somebody waits for is not waited for longer because it failed before
			limit = min(limit, r.o.MaxElapsed+readSlack-r.o.Clock.Now().Sub(start))
		}
		err := r.once(ctx, limit, try)
		if err == nil || errs.KindOf(err) != errs.Unavailable || errors.Is(err, ErrPersistent) {
			gone.Store(false)
			return err
		}
		if ctx.Err() != nil {
			return ended(ctx, err)
		}
		pause := r.pause(n, err)
		elapsed := r.o.Clock.Now().Sub(start)
		if gone.Load() || n >= r.o.MaxTries || elapsed+pause > r.o.MaxElapsed {
			gone.Store(true)
			return errs.New(errs.Unavailable, "%w (gave up after %d tries in %s)", err, n, elapsed.Round(time.Millisecond))
		}
		r.o.OnRetry(op, key, err)
		if r.o.Clock.Sleep(ctx, pause) != nil {
			return ended(ctx, err)
		}
	}
}

// readSlack is how long the last try of a read may go on beyond MaxElapsed.
const readSlack = 8 * time.Second

// ended is err, the last try's, where the caller's context ended the tries.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w (no further try: %w)", err, ctx.Err())
}

// within is what the n-th try may take.
func (r *retrying) within(n int, size int64, gone bool) time.Duration {
	if gone {
		return min(hurried, r.o.TryTimeout)
	}
	moving := time.Duration(float64(size) / float64(r.o.MinRate) * float64(time.Second))
	return r.o.TryTimeout<<min(n-1, 1) + moving<<min(n-1, 3)
}

func (r *retrying) once(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := r.o.Clock.WithTimeout(ctx, limit)
	defer cancel()
	return try(ctx)
}

// pause is how long to wait after the n-th try.
func (r *retrying) pause(n int, err error) time.Duration {
	first, most := r.o.Backoff, r.o.MaxBackoff
	if errors.Is(err, ErrSlowDown) {
		first, most = r.o.SlowBackoff, 4*r.o.MaxBackoff
	}
	d := min(float64(first)*math.Pow(2, float64(n-1)), float64(most))
	return time.Duration(d * (0.5 + r.o.Rand()/2))
}

func (r *retrying) Get(ctx context.Context, key string) (data []byte, err error) {
	err = r.do(ctx, OpGet, key, unknownSize, func(ctx context.Context) error {
		data, err = r.Store.Get(ctx, key)
		return err
	})
	return data, err
}

func (r *retrying) GetRange(ctx context.Context, key string, off, n int64) (data []byte, err error) {
	err = r.do(ctx, OpGetRange, key, n, func(ctx context.Context) error {
		data, err = r.Store.GetRange(ctx, key, off, n)
		if err == nil && int64(len(data)) != n {
			err = errs.New(errs.Unavailable, "%s %s: torn read, %d bytes came instead of %d", OpGetRange, key, len(data), n)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (r *retrying) Put(ctx context.Context, key string, data []byte) error {
	return r.do(ctx, OpPut, key, int64(len(data)), func(ctx context.Context) error {
		return r.Store.Put(ctx, key, data)
	})
}

// PutIfAbsent believes that the object exists at once only if the very first
// try says so. After a try whose fate is unknown, the object may be its work.
func (r *retrying) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	unknown := false
	err := r.do(ctx, OpPutIfAbsent, key, int64(len(data)), func(ctx context.Context) error {
		err := r.Store.PutIfAbsent(ctx, key, data)
		if err != nil && !errors.Is(err, errs.Exists) {
			unknown = true
		}
		return err
	})
	if !unknown || !errors.Is(err, errs.Exists) {
		return err
	}
	there, gerr := r.Get(ctx, key)
	switch {
	case gerr != nil:
		return errs.New(errs.Unavailable, "%s %s: a repeated try found the object there, and reading back whose it is failed: %w",
			OpPutIfAbsent, key, gerr)
	case bytes.Equal(there, data):
		return nil
	default:
		return err
	}
}

func (r *retrying) Head(ctx context.Context, key string) (info Info, err error) {
	err = r.do(ctx, OpHead, key, 0, func(ctx context.Context) error {
		info, err = r.Store.Head(ctx, key)
		return err
	})
	return info, err
}

func (r *retrying) List(ctx context.Context, prefix, after string, limit int) (infos []Info, err error) {
	err = r.do(ctx, OpList, prefix, 0, func(ctx context.Context) error {
		infos, err = r.Store.List(ctx, prefix, after, limit)
		return err
	})
	return infos, err
}

func (r *retrying) Delete(ctx context.Context, key string) error {
	return r.do(ctx, OpDelete, key, 0, func(ctx context.Context) error {
		return r.Store.Delete(ctx, key)
	})
}

// DeleteBatch repeats only the thousand that failed.
func (r *retrying) DeleteBatch(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		some := keys[:min(len(keys), batch)]
		keys = keys[len(some):]
		err := r.do(ctx, OpDeleteBatch, batchName(some), 0, func(ctx context.Context) error {
			return r.Store.DeleteBatch(ctx, some)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// batchName stands for many keys in messages.
func batchName(keys []string) string {
	if len(keys) == 0 {
		return "of nothing"
	}
	return fmt.Sprintf("%s (of %d)", keys[0], len(keys))
}
