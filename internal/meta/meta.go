// Package meta is the host's local metadata: the records of its volumes, which
// nothing else knows, and two indexes that could be rebuilt from the store
// (where a block with a given hash lies, and the pages of block maps).
//
// It is one Pebble database. Keys:
//
//	h/<name>        facts about the host
//	v/<volume id>   a volume's record (JSON)
//	d/<tenant>/<hash>  dedup index: pack (24 bytes), offset, length (4 bytes each, big-endian)
//	m/<hash>        a page of a block map
//
// All methods may be called concurrently.
package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/problem"
)

// formatVersion is the newest layout that this program reads and writes.
const formatVersion = 1

// maxPages bounds the pages of block maps that are kept, in bytes; beyond it all
// of them are dropped, since each can be fetched again.
const maxPages = 1 << 30

// DB is the metadata of one host.
type DB struct {
	db    *pebble.DB
	pages atomic.Int64 // bytes added since they were last dropped
}

// Open opens the metadata in dir, making it if there is none. A directory that a
// newer program wrote is refused.
func Open(fs vfs.FS, dir string) (*DB, error) {
	m, err := open(options(fs), dir)
	if err != nil {
		return nil, err
	}
	if err := m.checkVersion(dir); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func options(fs vfs.FS) *pebble.Options {
	return &pebble.Options{
		FS:                 fs,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       256,
		FormatMajorVersion: pebble.FormatVirtualSSTables,
		Logger:             quiet{},
	}
}

func open(opts *pebble.Options, dir string) (*DB, error) {
	opts.Cache = pebble.NewCache(8 << 20)
	defer opts.Cache.Unref()
	db, err := pebble.Open(dir, opts)
	if err != nil {
		if errors.Is(err, pebble.ErrCorruption) {
			return nil, problem.New(problem.Corrupt, "the metadata in %s is damaged: %w", dir, err)
		}
		return nil, fmt.Errorf("open the metadata in %s: %w", dir, err)
	}
	return &DB{db: db}, nil
}

// quiet drops Pebble's messages; its errors are returned to us.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("metadata: "+format, args...)) // the database cannot go on
}

func (m *DB) checkVersion(dir string) error {
	v, err := m.version(dir)
	if err == nil && v == 0 {
		return m.SetFact("format", binary.BigEndian.AppendUint32(nil, formatVersion))
	}
	return err
}

// version is the format of the metadata, 0 if there is none yet.
func (m *DB) version(dir string) (uint32, error) {
	b, err := m.Fact("format")
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 4 || binary.BigEndian.Uint32(b) == 0 {
		return 0, problem.New(problem.Corrupt, "the metadata in %s has no format version", dir)
	}
	v := binary.BigEndian.Uint32(b)
	if v > formatVersion {
		return v, problem.New(problem.Unsupported, "the metadata in %s is of format %d, this program knows up to %d: use a newer glide", dir, v, formatVersion)
	}
	return v, nil
}

// Close closes the database.
func (m *DB) Close() error { return m.db.Close() }

func (m *DB) get(key []byte) ([]byte, error) {
	v, closer, err := m.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the metadata: %w", err)
	}
	defer func() { _ = closer.Close() }()
	return append([]byte{}, v...), nil
}

// Fact returns what SetFact stored under the name, nil if nothing was.
func (m *DB) Fact(name string) ([]byte, error) { return m.get([]byte("h/" + name)) }

// SetFact stores a fact about the host, durably; nil removes it.
func (m *DB) SetFact(name string, value []byte) error {
	if value == nil {
		return m.db.Delete([]byte("h/"+name), pebble.Sync)
	}
	return m.db.Set([]byte("h/"+name), value, pebble.Sync)
}

// Facts calls fn for every fact whose name begins with prefix; an error of fn ends it.
func (m *DB) Facts(prefix string, fn func(name string, value []byte) error) error {
	return m.each("h/"+prefix, func(key string, value []byte) error { return fn(key[len("h/"):], value) })
}

// Record is a volume's record, as the volume encoded it.
type Record struct {
	ID    string
	Value []byte // nil removes it
}

// SaveVolumes stores or removes records, all or none, durably.
func (m *DB) SaveVolumes(records ...Record) error { return m.save(pebble.Sync, records) }

// SaveVolumesSoon is SaveVolumes without waiting until it is durable. Saves take
// effect in the order of the calls.
func (m *DB) SaveVolumesSoon(records ...Record) error { return m.save(pebble.NoSync, records) }

func (m *DB) save(how *pebble.WriteOptions, records []Record) error {
	b := m.db.NewBatch()
	defer func() { _ = b.Close() }()
	for _, r := range records {
		key := []byte("v/" + r.ID)
		var err error
		if r.Value == nil {
			err = b.Delete(key, nil)
		} else {
			err = b.Set(key, r.Value, nil)
		}
		if err != nil {
			return fmt.Errorf("write the metadata: %w", err)
		}
	}
	if err := b.Commit(how); err != nil {
		return fmt.Errorf("write the metadata: %w", err)
	}
	return nil
}

// Volumes calls fn for every record; an error of fn ends it.
func (m *DB) Volumes(fn func(Record) error) error {
	return m.each("v/", func(key string, value []byte) error { return fn(Record{ID: key[len("v/"):], Value: value}) })
}

// each calls fn for every key with a prefix, which ends in a slash.
func (m *DB) each(prefix string, fn func(key string, value []byte) error) error {
	end := []byte(prefix)
	end[len(end)-1]++
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: end})
	if err != nil {
		return fmt.Errorf("read the metadata: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(string(it.Key()), append([]byte{}, it.Value()...)); err != nil {
			_ = it.Close()
			return err
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read the metadata: %w", err)
	}
	return nil
}

func blockKey(tenant string, h *pack.Hash) []byte {
	k := make([]byte, 0, 3+len(tenant)+len(h))
	k = append(k, "d/"...)
	k = append(k, tenant...)
	k = append(k, '/')
	return append(k, h[:]...)
}

// Block returns where a block with the hash was stored for the tenant; a hole
// if this host knows of none.
func (m *DB) Block(tenant string, h pack.Hash) (pack.Ref, error) {
	v, closer, err := m.db.Get(blockKey(tenant, &h))
	if errors.Is(err, pebble.ErrNotFound) {
		return pack.Ref{}, nil
	}
	if err != nil {
		return pack.Ref{}, fmt.Errorf("read the dedup index: %w", err)
	}
	defer func() { _ = closer.Close() }()
	ref, _ := blockRef(h, v) // it is an index: what it does not know is stored again
	return ref, nil
}

// blockRef decodes an entry of the dedup index.
func blockRef(h pack.Hash, v []byte) (ref pack.Ref, ok bool) {
	if len(v) != 32 {
		return ref, false
	}
	ref.Hash = h
	copy(ref.Pack.Content[:], v)
	copy(ref.Pack.Nonce[:], v[12:])
	ref.Off = binary.BigEndian.Uint32(v[24:])
	ref.Len = binary.BigEndian.Uint32(v[28:])
	return ref, true
}

// AddBlocks enters blocks that are in the store into the tenant's dedup index.
// It need not be durable.
func (m *DB) AddBlocks(tenant string, refs []pack.Ref) error {
	b := m.db.NewBatch()
	defer func() { _ = b.Close() }()
	for i := range refs {
		r := &refs[i]
		v := make([]byte, 0, 32)
		v = append(v, r.Pack.Content[:]...)
		v = append(v, r.Pack.Nonce[:]...)
		v = binary.BigEndian.AppendUint32(v, r.Off)
		v = binary.BigEndian.AppendUint32(v, r.Len)
		if err := b.Set(blockKey(tenant, &r.Hash), v, nil); err != nil {
			return fmt.Errorf("write the dedup index: %w", err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write the dedup index: %w", err)
	}
	return nil
}

// ForgetBlock takes a block out of the dedup index: it was not where the index said.
func (m *DB) ForgetBlock(tenant string, h pack.Hash) error {
	return m.db.Delete(blockKey(tenant, &h), pebble.NoSync)
}

// Page returns a stored page of a block map, nil if it is not here. The caller
// checks its hash.
func (m *DB) Page(h pack.Hash) ([]byte, error) {
	return m.get(append([]byte("m/"), h[:]...))
}

// AddPage stores a page. It need not be durable.
func (m *DB) AddPage(h pack.Hash, page []byte) error {
	if m.pages.Add(int64(len(page))) > maxPages {
		m.pages.Store(0)
		if err := m.db.DeleteRange([]byte("m/"), []byte("m0"), pebble.NoSync); err != nil {
			return fmt.Errorf("drop old pages of block maps: %w", err)
		}
	}
	return m.db.Set(append([]byte("m/"), h[:]...), page, pebble.NoSync)
}
