package meta

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// instance is one open database. When one of its writes fails, it is abandoned and
// replaced by another, which is read-only until writes succeed again.
type instance struct {
	db       *pebble.DB
	vals     *values
	fence    *fence
	readOnly bool
	closed   chan struct{}
}

// openInstance opens the database in dir. After an error, a half-opened database is
// abandoned.
func openInstance(fs vfs.FS, dir string, vals *values, give func() bool, change func(*pebble.Options)) (*instance, error) {
	f := newFence(fs, give)
	opts := &pebble.Options{
		FS:                 f,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       256,
		FormatMajorVersion: pebble.FormatVirtualSSTables,
		Logger:             logger{f},
	}
	change(opts)
	opts.Cache = pebble.NewCache(8 << 20)
	defer opts.Cache.Unref()
	f.setHurry(true)
	in := &instance{vals: vals, fence: f, readOnly: opts.ReadOnly, closed: make(chan struct{})}
	db, err := call(in, func() (*pebble.DB, error) { return pebble.Open(dir, opts) })
	switch {
	case err == nil:
		in.db = db
		f.setHurry(false)
		return in, nil
	case errors.Is(err, pebble.ErrCorruption):
		return nil, errs.New(errs.Corrupt, "the metadata in %s is damaged: %w", dir, err)
	}
	f.fail(err)
	return nil, fmt.Errorf("open the metadata in %s: %w", dir, err)
}

// call calls the database. It returns when the call returns or the instance fails.
// In the second case the call may never return, and its result is dropped.
func call[T any](in *instance, fn func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // an error that Pebble cannot continue after
				in.fence.fail(fmt.Errorf("%v", v))
			}
		}()
		value, err := fn()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-in.fence.down:
	}
	select {
	case r := <-done: // the call succeeded anyway
		return r.value, r.err
	default:
		var none T
		return none, in.fence.err()
	}
}

// run is call for functions without a result.
func (in *instance) run(fn func() error) error {
	_, err := call(in, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

// close closes the instance, unless it has failed: a failed instance cannot be
// waited for. Compactions that wait for room are abandoned.
func (in *instance) close() error {
	close(in.closed)
	if in.fence.err() != nil {
		return nil
	}
	in.fence.setHurry(true)
	return in.run(in.db.Close)
}
