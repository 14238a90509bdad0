package objstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"sync"

	"github.com/paraglide/glide/internal/errs"
)

// Effect is what a fault does to the request it strikes.
type Effect uint8

// The effects.
const (
	// FailBefore fails the request; nothing reaches the store.
	FailBefore Effect = iota
	// FailAfter lets the request take effect and loses the answer.
	FailAfter
	// Late fails the request and keeps it: it takes effect when the test
	// releases it (see Faults.Held).
	Late
	// Truncate cuts the data of a Get or GetRange short.
	Truncate
	// Flip changes one bit of the data of a Get or GetRange.
	Flip
)

// Fault is a rule by which requests fail.
type Fault struct {
	// Ops are the kinds it strikes; none: every kind.
	Ops []Op
	// Match, if set, chooses among those by key (a List's is its prefix, a
	// batch is struck if any of its keys is chosen).
	Match func(key string) bool
	// Skip lets so many chosen requests pass before the first is struck, and
	// Times is how many are struck then; 0: all.
	Skip, Times int
	// Rate is the share of the chosen requests that is struck, by the seed; 0: all.
	Rate float64
	// Effect is what happens to them.
	Effect Effect
	// Err is what they return; nil: errs.Unavailable. Truncate and Flip return none.
	Err error
}

// Faults is a store whose requests fail by rules. Which requests a Rate
// strikes, and which bit is flipped, depends only on the seed, the request and
// how often it was made before, not on the order among different requests.
// What PutIfAbsent returned to the struck request's sender is for it to find
// out: a FailAfter hides also that the object existed.
type Faults struct {
	Store
	seed uint64

	mu    sync.Mutex
	rules []*rule
	seen  map[string]uint64 // requests so far, by kind and key
	total int
	held  []*Held
}

type rule struct {
	Fault
	chosen, struck int
}

// Held is a request that was kept by a Late fault.
type Held struct {
	Op  Op
	Key string

	release func() error
	once    sync.Once
	err     error
}

// Release lets the request take effect now, once, and returns what nobody
// waits for any more: its result.
func (h *Held) Release() error {
	h.once.Do(func() { h.err = h.release() })
	return h.err
}

// NewFaults returns s with no rules yet.
func NewFaults(s Store, seed uint64) *Faults {
	return &Faults{Store: s, seed: seed, seen: make(map[string]uint64)}
}

// Inject adds a rule. The first rule that strikes a request decides.
func (f *Faults) Inject(r Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &rule{Fault: r})
}

// Clear drops all rules; what is held stays held.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Held lists the requests that were kept, in order, released ones included.
func (f *Faults) Held() []*Held {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.held)
}

// Requests is how many requests were made, struck or not.
func (f *Faults) Requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// strike finds the rule for a request, if any, and the request's own random
// number.
func (f *Faults) strike(op Op, keys ...string) (*rule, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total++
	id := op.String() + "\x00" + keys[0]
	f.seen[id]++
	random := f.random(id, f.seen[id])
	for _, r := range f.rules {
		if r.strikes(op, keys, random) {
			return r, random
		}
	}
	return nil, random
}

func (f *Faults) random(id string, n uint64) uint64 {
	h := fnv.New128a()
	_, _ = h.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte(id), n), f.seed))
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

func (r *rule) strikes(op Op, keys []string, random uint64) bool {
	switch {
	case len(r.Ops) > 0 && !slices.Contains(r.Ops, op):
		return false
	case r.Match != nil && !slices.ContainsFunc(keys, r.Match):
		return false
	case r.Rate > 0 && float64(random>>11)/(1<<53) >= r.Rate:
		return false
	}
	r.chosen++
	if r.chosen <= r.Skip || r.Times > 0 && r.struck >= r.Times {
		return false
	}
	r.struck++
	return true
}

func (r *rule) err(op Op, key string) error {
	if r.Err != nil {
		return r.Err
	}
	return errs.New(errs.Unavailable, "%s %s: injected fault", op, key)
}

// run makes a request that returns no data, as the rules will.
func (f *Faults) run(ctx context.Context, op Op, keys []string, effect func(context.Context) error) error {
	r, _ := f.strike(op, keys...)
	if r == nil {
		return effect(ctx)
	}
	switch r.Effect {
	case FailBefore:
		return r.err(op, keys[0])
	case FailAfter:
		_ = effect(ctx) // its answer is what gets lost
		return r.err(op, keys[0])
	case Late:
		f.hold(op, keys[0], func() error { return effect(context.WithoutCancel(ctx)) })
		return r.err(op, keys[0])
	default:
		return effect(ctx)
	}
}

func (f *Faults) hold(op Op, key string, release func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = append(f.held, &Held{Op: op, Key: key, release: release})
}

// read makes a request that returns data, as the rules will.
func (f *Faults) read(op Op, key string, get func() ([]byte, error)) ([]byte, error) {
	r, random := f.strike(op, key)
	if r != nil && r.Effect != Truncate && r.Effect != Flip {
		return nil, r.err(op, key)
	}
	data, err := get()
	if r == nil || err != nil || len(data) == 0 {
		return data, err
	}
	at := random % uint64(len(data))
	if r.Effect == Truncate {
		return data[:at], nil
	}
	data[at] ^= 1 << (random >> 61)
	return data, nil
}

// Get implements Store.
func (f *Faults) Get(ctx context.Context, key string) ([]byte, error) {
	return f.read(OpGet, key, func() ([]byte, error) { return f.Store.Get(ctx, key) })
}

// GetRange implements Store.
func (f *Faults) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	return f.read(OpGetRange, key, func() ([]byte, error) { return f.Store.GetRange(ctx, key, off, n) })
}

// Put implements Store.
func (f *Faults) Put(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data) // a late effect must not see what the caller does next
	return f.run(ctx, OpPut, []string{key}, func(ctx context.Context) error { return f.Store.Put(ctx, key, data) })
}

// PutIfAbsent implements Store.
func (f *Faults) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return f.run(ctx, OpPutIfAbsent, []string{key}, func(ctx context.Context) error { return f.Store.PutIfAbsent(ctx, key, data) })
}

// Head implements Store.
func (f *Faults) Head(ctx context.Context, key string) (info Info, err error) {
	err = f.run(ctx, OpHead, []string{key}, func(ctx context.Context) error {
		info, err = f.Store.Head(ctx, key)
		return err
	})
	return info, err
}

// List implements Store.
func (f *Faults) List(ctx context.Context, prefix, after string, limit int) (infos []Info, err error) {
	err = f.run(ctx, OpList, []string{prefix}, func(ctx context.Context) error {
		infos, err = f.Store.List(ctx, prefix, after, limit)
		return err
	})
	return infos, err
}

// Delete implements Store.
func (f *Faults) Delete(ctx context.Context, key string) error {
	return f.run(ctx, OpDelete, []string{key}, func(ctx context.Context) error { return f.Store.Delete(ctx, key) })
}

// DeleteBatch implements Store.
func (f *Faults) DeleteBatch(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	keys = slices.Clone(keys)
	return f.run(ctx, OpDeleteBatch, keys, func(ctx context.Context) error { return f.Store.DeleteBatch(ctx, keys) })
}
