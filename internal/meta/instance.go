package meta

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// instance is the database, opened once. When a write of it fails it is given
// up, and another one is opened in its place: for reading only, until writes go
// through again.
type instance struct {
	db       *pebble.DB
	fence    *fence
	readOnly bool
	closed   chan struct{}
}

// openInstance opens the database in dir. It is an error if that cannot be done;
// what has begun is given up then.
func openInstance(fs vfs.FS, dir string, give func() bool, change func(*pebble.Options)) (*instance, error) {
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
	in := &instance{fence: f, readOnly: opts.ReadOnly, closed: make(chan struct{})}
	db, err := call(in, func() (*pebble.DB, error) { return pebble.Open(dir, opts) })
	switch {
	case err == nil:
		in.db = db
		return in, nil
	case errors.Is(err, pebble.ErrCorruption):
		return nil, errs.New(errs.Corrupt, "the metadata in %s is damaged: %w", dir, err)
	}
	f.fail(err)
	return nil, fmt.Errorf("open the metadata in %s: %w", dir, err)
}

// call calls the database, and returns when the call has or when the instance has
// failed: then the call may never return, and its result is nobody's.
func call[T any](in *instance, fn func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // Pebble has met what it cannot go on from
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
	case r := <-done: // it was done all the same
		return r.value, r.err
	default:
		var none T
		return none, in.fence.err()
	}
}

// run is call for what has no result.
func (in *instance) run(fn func() error) error {
	_, err := call(in, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

// close closes the instance, unless it has failed: then nothing of it can be
// waited for. Compactions that wait for room are given up.
func (in *instance) close() error {
	close(in.closed)
	if in.fence.err() != nil {
		return nil
	}
	in.fence.stopWaiting()
	return in.run(in.db.Close)
}
