package volume

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// hookFS calls hook before and after every write and every sync of a log file.
type hookFS struct {
	vfs.FS
	hook func(op string)
	// watch, if set, is called before each sync.
	watch atomic.Pointer[func()]
	// failSyncs is how many of the next syncs fail, for files whose syncs can fail.
	failSyncs atomic.Int32
}

type hookFile struct {
	vfs.File
	fs *hookFS
}

func (f hookFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.hook("before write")
	n, err := f.File.WriteAt(p, off)
	f.fs.hook("after write")
	return n, err
}

func (f hookFile) SyncData() error {
	if watch := f.fs.watch.Load(); watch != nil {
		(*watch)()
	}
	f.fs.hook("before sync")
	if f.fs.failSyncs.Add(-1) >= 0 {
		return errors.New("input/output error")
	}
	err := f.File.SyncData()
	f.fs.hook("after sync")
	return err
}

func (fs *hookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return hookFile{f, fs}, err
}

func (fs *hookFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return hookFile{f, fs}, err
}

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

func (m *memStore) Read(_ context.Context, ref *pack.Ref, _ int, p []byte, off int) error {
	b, err := m.get(ref.Hash)
	if err == nil {
		copy(p, b[off:])
	}
	return err
}

func (m *memStore) TryRead(h *pack.Hash, _ int, p []byte, off int) bool {
	b, err := m.get(*h)
	if err == nil {
		copy(p, b[off:])
	}
	return err == nil
}

func (m *memStore) Prefetch([]pack.Ref, int) {}
