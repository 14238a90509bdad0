// Package objstore is the interface to the object store: whole small objects under
// string keys, and one primitive on which everything else is built, the creation of a
// key only if it is absent.
//
// Drivers (file://, s3://, in memory) make one try of one request. Retries, deadlines,
// counting, latency and faults are wrappers around any Store. The store must be
// strongly consistent for single keys and for listings. Nothing else is assumed: a
// request may take effect long after its sender stopped waiting for it.
package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// MaxObject is the largest object that a driver must store, in bytes: a pack has at
// most 64 MiB.
const MaxObject = 64 << 20

// Two markers further describe errors of kind errs.Unavailable; test with
// errors.Is.
var (
	// ErrSlowDown: the store answers, but asks for fewer requests.
	ErrSlowDown = errors.New("the store asks to slow down")
	// ErrPersistent: the failure will not pass within seconds, as with refused
	// credentials. Retrying makes sense only after somebody fixed the cause.
	ErrPersistent = errors.New("the store's trouble persists")
)

// Info describes one object.
type Info struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // the store's own clock; never used for safety
	// Version is another one whenever the content is; "" if the store cannot tell. It means
	// nothing else: the same content may have several.
	Version string
}

// Store is an object store. Every method may be called concurrently. Keys are
// slash-separated, without a leading slash (CheckKey has the rules); no key is
// ever a prefix directory of another. Errors are of the kinds errs.NotFound,
// errs.Exists, errs.Unavailable (worth another try, see also
// ErrPersistent), errs.NoSpace, errs.ReadOnly and errs.Invalid; any other error will
// not go away by itself. If ctx ends, the error satisfies errors.Is for ctx.Err().
//
// The store does not keep slices passed to it. Returned slices belong to the caller.
type Store interface {
	// Get returns the whole object.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange returns exactly n bytes from off; a shorter object is an error
	// of kind errs.Corrupt. n is positive.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Put creates or replaces the object. When it returns without error the
	// object is durable.
	Put(ctx context.Context, key string, data []byte) error
	// PutIfAbsent creates the object, or fails with errs.Exists and changes
	// nothing. After any other error the object may exist or appear later.
	PutIfAbsent(ctx context.Context, key string, data []byte) error
	// Head describes the object.
	Head(ctx context.Context, key string) (Info, error)
	// List returns, in byte order of their keys, at most max (0: 1000; never
	// more than 1000) objects whose keys begin with prefix and are greater
	// than after. Fewer than max means that there are no more. One request.
	List(ctx context.Context, prefix, after string, max int) ([]Info, error)
	// Delete removes the object. An absent object is not an error.
	Delete(ctx context.Context, key string) error
	// DeleteBatch removes many objects (one request per thousand, if the store
	// supports that).
	DeleteBatch(ctx context.Context, keys []string) error
	// String is the store's URL without secrets.
	String() string
}

// ListAll calls fn for every object under prefix with a key greater than
// after, in order, until fn returns false.
func ListAll(ctx context.Context, s Store, prefix, after string, fn func(Info) bool) error {
	for {
		infos, err := s.List(ctx, prefix, after, listMax)
		if err != nil {
			return err
		}
		for _, in := range infos {
			if !fn(in) {
				return nil
			}
			after = in.Key
		}
		if len(infos) < listMax {
			return nil
		}
	}
}

// batch is how many keys one DeleteBatch request may name, and listMax how many
// objects one List request may return: S3's limits.
const (
	batch   = 1000
	listMax = 1000
)

func listLimit(n int) int {
	if n <= 0 || n > listMax {
		return listMax
	}
	return n
}

// checkPut is every driver's check of a request that writes.
func checkPut(ctx context.Context, op Op, key string, data []byte) error {
	if err := checkRequest(ctx, op, key); err != nil {
		return err
	}
	if len(data) > MaxObject {
		return errs.New(errs.Invalid, "%s %s: %d bytes are more than the %d that an object may have",
			op, key, len(data), MaxObject)
	}
	return nil
}

// checkRange is every driver's check of a ranged read.
func checkRange(ctx context.Context, key string, off, n int64) error {
	if err := checkRequest(ctx, OpGetRange, key); err != nil {
		return err
	}
	if off < 0 || n <= 0 || n > MaxObject || off > MaxObject {
		return errs.New(errs.Invalid, "%s %s: %d bytes at %d are no range of an object", OpGetRange, key, n, off)
	}
	return nil
}

// checkRequest is every driver's check of a request for one key.
func checkRequest(ctx context.Context, op Op, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return checkContext(ctx, op, key)
}

// checkContext refuses to begin a request that nobody waits for.
func checkContext(ctx context.Context, op Op, key string) error {
	if err := ctx.Err(); err != nil {
		return contextError(op, key, err)
	}
	return nil
}

// contextError describes a request that ended with its context: a deadline
// that passed is the store's slowness (errs.Unavailable), a cancellation is
// nobody's fault.
func contextError(op Op, key string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.New(errs.Unavailable, "%s %s: no answer in time: %w", op, key, err)
	}
	return fmt.Errorf("%s %s: %w", op, key, err)
}

// marked is an error with a marker that errors.Is finds and the message omits.
type marked struct {
	error
	marker error
}

func (m marked) Unwrap() []error { return []error{m.error, m.marker} }

func persistent(err error) error { return marked{err, ErrPersistent} }

func absent(op Op, key, store string) error {
	return errs.New(errs.NotFound, "%s %s: no such object in %s", op, key, store)
}

func exists(op Op, key, store string) error {
	return errs.New(errs.Exists, "%s %s: the object exists already in %s", op, key, store)
}

func tooShort(key, store string, size, off, n int64) error {
	return errs.New(errs.Corrupt, "%s %s: the object in %s has %d bytes, %d at %d were wanted",
		OpGetRange, key, store, size, n, off)
}

func tooBig(key, store string, size int64) error {
	return errs.New(errs.Corrupt, "%s %s: the object in %s has %d bytes, more than the %d that Glide's have",
		OpGet, key, store, size, MaxObject)
}
