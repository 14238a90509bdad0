// Package objstore is the object store as Glide sees it: whole small objects
// under string keys, and one primitive that everything else is built on, the
// creation of a key only if it is absent.
//
// Drivers (file://, s3://, in memory) do one try of one request each; retries,
// deadlines, counting, latency and faults are wrappers around any Store. The
// store is assumed to be strongly consistent for single keys and for listings;
// nothing else is assumed: a request may take effect long after its sender
// stopped waiting for it.
package objstore

import (
	"context"
	"time"
)

// MaxObject is the greatest object that a driver must carry, in bytes: a pack
// holds at most 64 MiB.
const MaxObject = 64 << 20

// Info describes one object.
type Info struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // the store's own clock; never used for safety
}

// Store is an object store. Every method may be called concurrently. Keys are
// slash-separated, without a leading slash; no key is ever a prefix directory
// of another. Errors are of the kinds problem.NotFound, problem.Exists,
// problem.Unavailable (worth another try), problem.NoSpace, problem.ReadOnly and
// problem.Invalid; anything else will not mend by itself.
type Store interface {
	// Get returns the whole object.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange returns exactly n bytes from off; a shorter object is an error
	// of kind problem.Corrupt. n is positive.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Put creates or replaces the object. When it returns without error the
	// object is durable.
	Put(ctx context.Context, key string, data []byte) error
	// PutIfAbsent creates the object, or fails with problem.Exists and changes
	// nothing. After any other error the object may exist or appear later.
	PutIfAbsent(ctx context.Context, key string, data []byte) error
	// Head describes the object.
	Head(ctx context.Context, key string) (Info, error)
	// List returns, in byte order of their keys, at most max (0: 1000; never
	// more than 1000) objects whose keys begin with prefix and are greater
	// than after. Fewer than max means that there are no more. One request.
	List(ctx context.Context, prefix, after string, max int) ([]Info, error)
	// Delete removes the object; that it was absent is no error.
	Delete(ctx context.Context, key string) error
	// DeleteBatch removes many objects (in one request for each thousand where
	// the store can).
	DeleteBatch(ctx context.Context, keys []string) error
	// String is the store's URL without secrets.
	String() string
}

// ListAll calls fn for every object under prefix with a key greater than
// after, in order, until fn returns false.
func ListAll(ctx context.Context, s Store, prefix, after string, fn func(Info) bool) error {
	const page = 1000
	for {
		infos, err := s.List(ctx, prefix, after, page)
		if err != nil {
			return err
		}
		for _, in := range infos {
			if !fn(in) {
				return nil
			}
			after = in.Key
		}
		if len(infos) < page {
			return nil
		}
	}
}
