package objstore

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// mem keeps objects in memory. It upholds the whole contract of Store, also
// that no key is a directory of another, so that tests over it find what a
// stricter store would refuse.
type mem struct {
	now func() time.Time
	encryption

	mu      sync.RWMutex
	puts    uint64
	keys    []string // sorted; exactly the keys of objects
	objects map[string]memObject
}

type memObject struct {
	data     []byte // never changed once stored
	modified time.Time
	number   uint64 // of the Put
}

// NewMem returns an empty store in memory, for tests. Only Now of the clock is
// used.
func NewMem(clock Clock) Store {
	return &mem{now: clock.withDefaults().Now, objects: make(map[string]memObject)}
}

func (m *mem) String() string { return "mem://" }

func (m *mem) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkRequest(ctx, OpGet, key); err != nil {
		return nil, err
	}
	o, ok := m.object(key)
	if !ok {
		return nil, absent(OpGet, key, m.String())
	}
	return append([]byte{}, o.data...), nil
}

func (m *mem) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := checkRange(ctx, key, off, n); err != nil {
		return nil, err
	}
	o, ok := m.object(key)
	if !ok {
		return nil, absent(OpGetRange, key, m.String())
	}
	if size := int64(len(o.data)); off+n > size {
		return nil, tooShort(key, m.String(), size, off, n)
	}
	return bytes.Clone(o.data[off : off+n]), nil
}

func (m *mem) Head(ctx context.Context, key string) (Info, error) {
	if err := checkRequest(ctx, OpHead, key); err != nil {
		return Info{}, err
	}
	o, ok := m.object(key)
	if !ok {
		return Info{}, absent(OpHead, key, m.String())
	}
	return o.info(key), nil
}

func (m *mem) object(key string) (memObject, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[key]
	return o, ok
}

func (o memObject) info(key string) Info {
	return Info{Key: key, Size: int64(len(o.data)), Modified: o.modified, Version: strconv.FormatUint(o.number, 10)}
}

func (m *mem) Put(ctx context.Context, key string, data []byte) error {
	return m.put(ctx, OpPut, key, data)
}

func (m *mem) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return m.put(ctx, OpPutIfAbsent, key, data)
}

func (m *mem) put(ctx context.Context, op Op, key string, data []byte) error {
	if err := cmp.Or(checkPut(ctx, op, key, data), m.refuse(op, key, m)); err != nil {
		return err
	}
	o := memObject{data: bytes.Clone(data), modified: m.now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		if op == OpPutIfAbsent {
			return exists(op, key, m.String())
		}
	} else if err := m.insert(op, key); err != nil {
		return err
	}
	m.puts++
	o.number = m.puts
	m.objects[key] = o
	return nil
}

// insert adds an absent key to the sorted ones.
func (m *mem) insert(op Op, key string) error {
	for i := range key {
		if _, ok := m.objects[key[:i]]; ok && key[i] == '/' {
			return errs.New(errs.Invalid, "%s %s: %s is an object, it cannot be a directory", op, key, key[:i])
		}
	}
	below, _ := slices.BinarySearch(m.keys, key+"/")
	if below < len(m.keys) && strings.HasPrefix(m.keys[below], key+"/") {
		return errs.New(errs.Invalid, "%s %s: it is the directory of other keys", op, key)
	}
	i, _ := slices.BinarySearch(m.keys, key)
	m.keys = slices.Insert(m.keys, i, key)
	return nil
}

func (m *mem) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	if err := checkContext(ctx, OpList, prefix); err != nil {
		return nil, err
	}
	limit = listLimit(limit)
	m.mu.RLock()
	defer m.mu.RUnlock()
	var infos []Info
	i, _ := slices.BinarySearch(m.keys, max(prefix, after))
	for ; i < len(m.keys) && len(infos) < limit && strings.HasPrefix(m.keys[i], prefix); i++ {
		if key := m.keys[i]; key > after {
			infos = append(infos, m.objects[key].info(key))
		}
	}
	return infos, nil
}

func (m *mem) Delete(ctx context.Context, key string) error {
	return m.delete(ctx, OpDelete, []string{key})
}

func (m *mem) DeleteBatch(ctx context.Context, keys []string) error {
	return m.delete(ctx, OpDeleteBatch, keys)
}

func (m *mem) delete(ctx context.Context, op Op, keys []string) error {
	for _, key := range keys {
		if err := checkRequest(ctx, op, key); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if _, ok := m.objects[key]; ok {
			delete(m.objects, key)
			i, _ := slices.BinarySearch(m.keys, key)
			m.keys = slices.Delete(m.keys, i, i+1)
		}
	}
	return nil
}
