package volume

import (
	"bytes"
	"context"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
)

// memStore replaces the object store and the cache: blocks and pages by hash.
type memStore struct {
	mu     sync.Mutex
	raw    map[pack.Hash][]byte
	hasher *pack.Hasher
}

func newMemStore() *memStore {
	return &memStore{raw: map[pack.Hash][]byte{}, hasher: pack.NewHasher("test")}
}

func (m *memStore) put(raw []byte) pack.Ref {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hasher.Sum(raw)
	m.raw[h] = bytes.Clone(raw)
	return pack.Ref{Hash: h, Pack: pack.ID{Nonce: [12]byte{1}}, Len: uint32(len(raw))}
}

func (m *memStore) get(h pack.Hash) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.raw[h]; ok {
		return b, nil
	}
	return nil, errs.New(errs.NotFound, "no block %v", h)
}

func (m *memStore) AddPage(_ context.Context, _ pack.Hash, page []byte) (pack.Ref, error) {
	return m.put(page), nil
}

func (m *memStore) Page(_ context.Context, ref pack.Ref) ([]byte, error) { return m.get(ref.Hash) }

func (m *memStore) Block(_ context.Context, ref *pack.Ref, _ int) ([]byte, error) {
	return m.get(ref.Hash)
}

func (m *memStore) Fetch(_ context.Context, ref *pack.Ref, _ int, p []byte, off int) error {
	b, err := m.get(ref.Hash)
	if err == nil {
		copy(p, b[off:])
	}
	return err
}

func (m *memStore) ReadLocal(h *pack.Hash, size int, p []byte, off int) bool {
	return m.TryRead(h, size, p, off)
}

func (m *memStore) TryRead(h *pack.Hash, _ int, p []byte, off int) bool {
	b, err := m.get(*h)
	if err == nil {
		copy(p, b[off:])
	}
	return err == nil
}

func (m *memStore) Prefetch([]pack.Ref, int) {}

func (m *memStore) WillNeed([]pack.Ref, int) {}

func (m *memStore) Touch(*pack.Hash) int { return 0 }

func (m *memStore) Ahead([]pack.Ref, int, int, *readahead.Credit) {}
