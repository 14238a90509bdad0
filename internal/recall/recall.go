// Package recall remembers what objects of the store say, so that whoever reads all of them
// again and again reads only those that are new.
package recall

import (
	"sync"

	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/objstore"
)

// perEntry is about what an entry takes besides its key and what the caller counts, in bytes.
const perEntry = 200

// Memory has what objects say, as a list of the store showed them: one that was replaced has
// another version, and is not recalled. Times are not enough for that: those of many stores
// are seconds, and what replaces an object can be as long. So nothing is remembered of a store
// that tells no versions.
//
// A memory is full when it has as much as it may: what comes then is not remembered, since
// whoever goes through all objects in the same order would find nothing in one that lets go
// of the oldest. Its methods may be called concurrently. A nil memory remembers nothing.
type Memory[T any] struct {
	most int64 // bytes

	mu    sync.Mutex
	bytes int64
	turn  uint64
	all   map[string]*entry[T] // by key
}

type entry[T any] struct {
	in    objstore.Info
	says  T
	bytes int64
	turn  uint64 // in which it was last asked for, or remembered
}

// New returns a memory of about so many bytes.
func New[T any](bytes int64) *Memory[T] {
	return &Memory[T]{most: bytes, all: map[string]*entry[T]{}}
}

// Recall returns what the object says that a list showed.
func (m *Memory[T]) Recall(in objstore.Info) (says T, ok bool) {
	if m == nil || in.Version == "" {
		return says, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.all[in.Key]
	if e == nil || !same(&e.in, &in) && !fault.Is("gc-remembers-by-key") {
		return says, false
	}
	e.turn = m.turn
	return e.says, true
}

// same tells whether an object of a key is the one that it was.
func same(a, b *objstore.Info) bool {
	return a.Version == b.Version && a.Size == b.Size && a.Modified.Equal(b.Modified)
}

// Remember remembers what an object says, which was read after a list showed it. That takes
// bytes, besides its key. The caller must not change it any more.
func (m *Memory[T]) Remember(in objstore.Info, says T, bytes int64) {
	if m == nil || in.Version == "" {
		return
	}
	bytes += int64(len(in.Key)+len(in.Version)) + perEntry
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(in.Key)
	if m.bytes+bytes > m.most {
		return
	}
	m.all[in.Key] = &entry[T]{in, says, bytes, m.turn}
	m.bytes += bytes
}

// drop forgets an object. Under mu.
func (m *Memory[T]) drop(key string) {
	if e := m.all[key]; e != nil {
		m.bytes -= e.bytes
		delete(m.all, key)
	}
}

// Turn ends a turn: what nobody asked for in it is forgotten, because it is gone.
func (m *Memory[T]) Turn() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, e := range m.all {
		if e.turn != m.turn {
			m.drop(key)
		}
	}
	m.turn++
}

// Forget forgets everything.
func (m *Memory[T]) Forget() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes = 0
	clear(m.all)
}
