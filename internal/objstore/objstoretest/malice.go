package objstoretest

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Malice is a store that lies once it is armed: reads answer with an older version of the
// object, another of its kind, a part of it, a changed bit or nothing, lists leave out what
// is newest, and changes are acknowledged and not made. All methods may be called
// concurrently.
type Malice struct {
	objstore.Store

	mu      sync.Mutex
	draw    func(n int) int // below n; nil: it is honest
	swallow bool            // changes, too
	past    map[string][][]byte
	told    map[string]int
}

// NewMalice returns an honest store.
func NewMalice(store objstore.Store) *Malice {
	return &Malice{Store: store, past: map[string][][]byte{}, told: map[string]int{}}
}

// Arm lets the store lie, in ways that draw chooses: it returns a number below n. nil makes
// the store honest again. With swallow changes are lost, too.
func (m *Malice) Arm(draw func(n int) int, swallow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draw, m.swallow = draw, swallow
}

// Armed tells whether the store lies.
func (m *Malice) Armed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draw != nil
}

// Told returns how often the store lied, by the kind of lie.
func (m *Malice) Told() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	told := map[string]int{}
	for what, n := range m.told {
		told[what] = n
	}
	return told
}

// Sent calls fn with everything that was sent to the store.
func (m *Malice) Sent(fn func(key string, data []byte)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, versions := range m.past {
		for _, data := range versions {
			fn(key, data)
		}
	}
}

func (m *Malice) note(key string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.past[key] = append(m.past[key], bytes.Clone(data))
}

// objectKind is what an object is, whosever it is.
func objectKind(key string) string {
	parts := strings.Split(key, "/")
	if parts[0] == "d" && len(parts) > 2 {
		return parts[2]
	}
	return parts[0]
}

// lie returns what a read of a key answers; is tells whether that is a lie.
func (m *Malice) lie(key string, truth []byte) (data []byte, err error, is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draw == nil || m.draw(3) > 0 {
		return nil, nil, false
	}
	tell := func(what string, data []byte) ([]byte, error, bool) {
		m.told[what]++
		return bytes.Clone(data), nil, true
	}
	switch m.draw(6) {
	case 0:
		if old := m.past[key]; len(old) > 1 {
			return tell("old", old[m.draw(len(old)-1)])
		}
	case 1, 2:
		if others := m.others(key); len(others) > 0 {
			versions := m.past[others[m.draw(len(others))]]
			return tell("foreign", versions[m.draw(len(versions))])
		}
	case 3:
		if len(truth) > 1 {
			return tell("truncated", truth[:m.draw(len(truth))])
		}
	case 4:
		if len(truth) > 0 {
			flipped := bytes.Clone(truth)
			flipped[m.draw(len(flipped))] ^= 1 << m.draw(8)
			return tell("flipped", flipped)
		}
	case 5:
		m.told["hidden"]++
		return nil, errs.New(errs.NotFound, "there is no object %q", key), true
	}
	return nil, nil, false
}

// others are the keys of the same kind, in order. Under mu.
func (m *Malice) others(key string) (list []string) {
	kind := objectKind(key)
	for other := range m.past {
		if other != key && objectKind(other) == kind {
			list = append(list, other)
		}
	}
	slices.Sort(list)
	return list
}

// Get implements objstore.Store.
func (m *Malice) Get(ctx context.Context, key string) ([]byte, error) {
	truth, err := m.Store.Get(ctx, key)
	if data, lerr, is := m.lie(key, truth); is {
		return data, lerr
	}
	return truth, err
}

// GetRange implements objstore.Store. A range of something shorter is filled up, as a store
// that lies would do.
func (m *Malice) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	truth, err := m.Store.GetRange(ctx, key, off, n)
	whole, _ := m.Store.Get(ctx, key)
	data, lerr, is := m.lie(key, whole)
	if !is || lerr != nil {
		if is {
			return nil, lerr
		}
		return truth, err
	}
	part := make([]byte, n)
	if off < int64(len(data)) {
		copy(part, data[off:])
	}
	return part, nil
}

// Head implements objstore.Store.
func (m *Malice) Head(ctx context.Context, key string) (objstore.Info, error) {
	in, err := m.Store.Head(ctx, key)
	if data, lerr, is := m.lie(key, nil); is {
		in.Size = int64(len(data))
		return in, lerr
	}
	return in, err
}

// List implements objstore.Store. The lie is a shorter list.
func (m *Malice) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	list, err := m.Store.List(ctx, prefix, after, limit)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || m.draw == nil || len(list) == 0 || m.draw(3) > 0 {
		return list, err
	}
	m.told["not listed"]++
	if at := m.draw(len(list)); m.draw(2) == 0 {
		return slices.Delete(list, at, at+1), nil
	}
	return list[:len(list)-1-m.draw(len(list))], nil
}

// swallows tells whether a change is not made.
func (m *Malice) swallows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draw == nil || !m.swallow || m.draw(4) > 0 {
		return false
	}
	m.told["swallowed"]++
	return true
}

// Put implements objstore.Store.
func (m *Malice) Put(ctx context.Context, key string, data []byte) error {
	if m.note(key, data); m.swallows() {
		return nil
	}
	return m.Store.Put(ctx, key, data)
}

// PutIfAbsent implements objstore.Store.
func (m *Malice) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if m.note(key, data); m.swallows() {
		return nil
	}
	return m.Store.PutIfAbsent(ctx, key, data)
}

// Delete implements objstore.Store.
func (m *Malice) Delete(ctx context.Context, key string) error {
	if m.swallows() {
		return nil
	}
	return m.Store.Delete(ctx, key)
}

// DeleteBatch implements objstore.Store.
func (m *Malice) DeleteBatch(ctx context.Context, keys []string) error {
	if m.swallows() {
		return nil
	}
	return m.Store.DeleteBatch(ctx, keys)
}
