// Package meta is the host's local metadata: the records of its volumes, which
// exist nowhere else, and two indexes that could be rebuilt from the store (the place
// of each block by hash, and the pages of block maps).
//
// It is one Pebble database. Keys:
//
//	h/<name>        facts about the host
//	v/<volume id>   a volume's record (JSON)
//	d/<tenant>/<hash>  dedup index: pack (24 bytes; 28 in a domain other than 0), offset,
//	                   length (4 bytes each, big-endian)
//	m/<hash>        a page of a block map
//
// All methods may be called concurrently.
package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// formatVersion is the layout of plain metadata; sealed.go has that of sealed metadata.
const formatVersion = 1

// maxPages bounds the stored pages of block maps, in bytes. Beyond it all of them are
// dropped; each can be fetched again.
const maxPages = 1 << 30

// Options configure a DB. FS and Dir are required.
type Options struct {
	FS  vfs.FS
	Dir string
	// Give frees some of the reserved room on a full disk; false: none is left.
	// nil: no room is reserved.
	Give func() bool
	// Changed, if set, is called with the reason when the metadata can no longer be
	// written, and with nil when it can again. It must not call the DB.
	Changed func(error)
	// Local seals the values; nil: they are plain, and sealed metadata is refused. Plain
	// metadata is sealed when it is opened with keys for the first time.
	Local *seal.Local
}

// DB is the metadata of one host.
//
// It survives a failed write. Data stored before can be read. Writes that must be
// durable fail with the reason and change nothing; the others are kept in memory, and
// stored when the disk takes writes again. Revive tries that, and so does every
// write.
type DB struct {
	opts  Options
	vals  *values
	lock  *pebble.Lock
	pages atomic.Int64 // bytes added since they were last dropped

	// access is held shared while the instance is used, and exclusively while it is
	// replaced.
	access sync.RWMutex
	in     *instance

	mu     sync.Mutex // guards the rest; after access
	failed error      // why nothing can be written; nil if it can
	stuck  bool       // the disk takes writes, but the database could not be opened
	seq    uint64
	// ahead holds the right values of records and facts where a newly opened instance
	// may have others: values of saves that need not be durable and, for a save that
	// failed, the values before it.
	ahead map[string]ahead
}

// ahead is a value, nil for none, and the sequence number of its save.
type ahead struct {
	seq   uint64
	value []byte
}

// Open opens the metadata, and creates it if there is none. It refuses a directory
// that a newer program wrote. If the disk does not take writes, existing metadata is
// opened for reading.
func Open(opts Options) (*DB, error) {
	if opts.Give == nil {
		opts.Give = func() bool { return false }
	}
	if opts.Changed == nil {
		opts.Changed = func(error) {}
	}
	lock, err := pebble.LockDirectory(opts.Dir, opts.FS)
	if err != nil {
		return nil, errs.New(errs.Busy, "the metadata in %s is in use by another daemon (or cannot be locked: %w)", opts.Dir, err)
	}
	m := &DB{opts: opts, vals: &values{local: opts.Local}, lock: lock, ahead: map[string]ahead{}}
	if err := m.begin(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := m.checkVersion(opts.Dir); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *DB) checkVersion(dir string) error {
	v, err := m.version(dir)
	if err != nil {
		return err
	}
	return m.beginSealed(v)
}

// version is the format of the metadata, 0 if there is none yet.
func (m *DB) version(dir string) (uint32, error) {
	b, err := m.Fact("format")
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 4 || binary.BigEndian.Uint32(b) == 0 {
		return 0, errs.New(errs.Corrupt, "the metadata in %s has no format version", dir)
	}
	v := binary.BigEndian.Uint32(b)
	if v > formatSealing {
		return v, errs.New(errs.Unsupported, "the metadata in %s is of format %d, this program knows up to %d: use a newer glide", dir, v, formatSealing)
	}
	return v, nil
}

// Close closes the database. Saves that need not be durable become durable if the
// disk takes them.
func (m *DB) Close() error {
	m.access.Lock()
	defer m.access.Unlock()
	if m.in == nil { // sealing was begun, and could not be ended
		return m.lock.Close()
	}
	if in := m.in; in.fence.err() == nil && !in.readOnly {
		if err := in.run(func() error { return in.db.LogData(nil, pebble.Sync) }); err != nil {
			m.opts.Changed(m.describe(err))
		}
	}
	return errors.Join(m.in.close(), m.lock.Close())
}

// view calls fn to read from the instance. If the instance fails meanwhile, it calls
// fn again with its successor. Call it without locks.
func (m *DB) view(fn func(*instance) error) error {
	m.access.RLock()
	in := m.in
	err := fn(in)
	m.access.RUnlock()
	if in.fence.err() == nil {
		return err
	}
	m.readOnly(in)
	m.access.RLock()
	defer m.access.RUnlock()
	return fn(m.in)
}

// read returns the value of a key, nil if there is none.
func (in *instance) read(key []byte) ([]byte, error) {
	value, err := call(in, func() ([]byte, error) {
		stored := in.vals.stored(key)
		v, closer, err := in.db.Get(stored)
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		_, value, err := in.vals.open(stored, v)
		return value, errors.Join(err, closer.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("read the metadata: %w", err)
	}
	return value, nil
}

// lookup is read from the current instance.
func (m *DB) lookup(key []byte) (value []byte, err error) {
	err = m.view(func(in *instance) (err error) { value, err = in.read(key); return err })
	return value, err
}

// get is lookup, but values kept ahead of the database come first.
func (m *DB) get(key []byte) (value []byte, err error) {
	err = m.view(func(in *instance) (err error) {
		m.mu.Lock()
		a, ok := m.ahead[string(key)]
		m.mu.Unlock()
		if ok {
			value = bytes.Clone(a.value)
			return nil
		}
		value, err = in.read(key)
		return err
	})
	return value, err
}

// Fact returns what SetFact stored under the name, nil if nothing is stored.
func (m *DB) Fact(name string) ([]byte, error) { return m.get([]byte("h/" + name)) }

// SetFact stores a fact about the host, durably; nil removes it.
func (m *DB) SetFact(name string, value []byte) error {
	return m.save([]pair{{"h/" + name, value}})
}

// Facts calls fn for every fact whose name begins with prefix, until fn returns an error.
func (m *DB) Facts(prefix string, fn func(name string, value []byte) error) error {
	return m.each("h/"+prefix, func(key string, value []byte) error { return fn(key[len("h/"):], value) })
}

// Record is a volume's record, as the volume encoded it.
type Record struct {
	ID    string
	Value []byte // nil removes it
}

// SaveVolumes stores or removes records, all or none, durably.
func (m *DB) SaveVolumes(records ...Record) error { return m.save(pairs(records)) }

// SaveVolumesSoon is SaveVolumes without waiting for durability. Saves take effect in
// the order of the calls.
func (m *DB) SaveVolumesSoon(records ...Record) error { return m.saveSoon(pairs(records)) }

func pairs(records []Record) []pair {
	list := make([]pair, len(records))
	for i, r := range records {
		list[i] = pair{"v/" + r.ID, r.Value}
	}
	return list
}

// Volumes calls fn for every record, until fn returns an error.
func (m *DB) Volumes(fn func(Record) error) error {
	return m.each("v/", func(key string, value []byte) error { return fn(Record{ID: key[len("v/"):], Value: value}) })
}

// each calls fn for every key with a prefix, which contains a slash.
func (m *DB) each(prefix string, fn func(key string, value []byte) error) error {
	all, err := m.under(prefix)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if err := fn(key, all[key]); err != nil {
			return err
		}
	}
	return nil
}

// under returns all keys and values under a prefix.
func (m *DB) under(prefix string) (all map[string][]byte, err error) {
	err = m.view(func(in *instance) (err error) {
		if all, err = call(in, func() (map[string][]byte, error) { return in.collect(prefix) }); err != nil {
			return fmt.Errorf("read the metadata: %w", err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for key, a := range m.ahead {
			switch {
			case !strings.HasPrefix(key, prefix):
			case a.value == nil:
				delete(all, key)
			default:
				all[key] = bytes.Clone(a.value)
			}
		}
		return nil
	})
	return all, err
}

// collect reads all keys and values under a prefix. Those of facts whose names are hidden
// are in another order.
func (in *instance) collect(prefix string) (map[string][]byte, error) {
	all := map[string][]byte{}
	from := []byte(prefix)
	if in.vals.hides(from) {
		from = []byte("h/")
	}
	end := bytes.Clone(from)
	end[len(end)-1]++
	it, err := in.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		key, value, err := in.vals.open(it.Key(), it.Value())
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		if bytes.HasPrefix(key, []byte(prefix)) {
			all[string(key)] = value
		}
	}
	return all, it.Close()
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
	v, err := m.lookup(blockKey(tenant, &h))
	if err != nil {
		return pack.Ref{}, fmt.Errorf("read the dedup index: %w", err)
	}
	ref, _ := blockRef(h, v) // a block that the index does not know is stored again
	return ref, nil
}

// Lengths of an entry of the dedup index: of a pack in domain 0, and of one in another.
const (
	entryLen       = 32
	domainEntryLen = 4 + entryLen
)

// blockRef decodes an entry of the dedup index.
func blockRef(h pack.Hash, v []byte) (ref pack.Ref, ok bool) {
	if len(v) == domainEntryLen {
		// Domain 0 has one form, and it is not this one.
		if ref.Pack.Domain, v = binary.BigEndian.Uint32(v), v[4:]; ref.Pack.Domain == 0 {
			return pack.Ref{}, false
		}
	}
	if len(v) != entryLen {
		return pack.Ref{}, false
	}
	ref.Hash = h
	copy(ref.Pack.Content[:], v)
	copy(ref.Pack.Nonce[:], v[12:])
	ref.Off = binary.BigEndian.Uint32(v[24:])
	ref.Len = binary.BigEndian.Uint32(v[28:])
	return ref, true
}

// AddBlocks adds blocks that are in the store to the tenant's dedup index. It is not
// durable, and does nothing while nothing can be written: a block that the index does
// not know is stored again.
func (m *DB) AddBlocks(tenant string, refs []pack.Ref) error {
	return m.index(func(b *pebble.Batch) error {
		for i := range refs {
			r := &refs[i]
			v := make([]byte, 0, domainEntryLen)
			if r.Pack.Domain != 0 {
				v = binary.BigEndian.AppendUint32(v, r.Pack.Domain)
			}
			v = append(v, r.Pack.Content[:]...)
			v = append(v, r.Pack.Nonce[:]...)
			v = binary.BigEndian.AppendUint32(v, r.Off)
			v = binary.BigEndian.AppendUint32(v, r.Len)
			if err := b.Set(blockKey(tenant, &r.Hash), v, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetBlock removes a block from the dedup index, because it was not where the index
// said. It fails while nothing can be written.
func (m *DB) ForgetBlock(tenant string, h pack.Hash) error {
	if err := m.Err(); err != nil {
		return err
	}
	return m.index(func(b *pebble.Batch) error { return b.Delete(blockKey(tenant, &h), nil) })
}

// Page returns a stored page of a block map, nil if it is not stored. The caller
// checks its hash.
func (m *DB) Page(h pack.Hash) ([]byte, error) {
	page, err := m.lookup(append([]byte("m/"), h[:]...))
	if errs.KindOf(err) == errs.Corrupt && err != nil {
		return nil, nil // it can be fetched again
	}
	return page, err
}

// AddPage stores a page, like AddBlocks.
func (m *DB) AddPage(h pack.Hash, page []byte) error {
	return m.index(func(b *pebble.Batch) error {
		if m.pages.Add(int64(len(page))) > maxPages {
			m.pages.Store(0)
			if err := b.DeleteRange([]byte("m/"), []byte("m0"), nil); err != nil {
				return err
			}
		}
		key := append([]byte("m/"), h[:]...)
		return b.Set(key, m.vals.seal(key, key, page), nil)
	})
}

// index changes one of the indexes that could be rebuilt.
func (m *DB) index(change func(*pebble.Batch) error) error {
	m.access.RLock()
	defer m.access.RUnlock()
	in := m.in
	if in.readOnly {
		return nil
	}
	err := in.run(func() error {
		b := in.db.NewBatch()
		defer func() { _ = b.Close() }()
		if err := change(b); err != nil {
			return err
		}
		return b.Commit(pebble.NoSync)
	})
	if err != nil && in.fence.err() == nil {
		return fmt.Errorf("write the metadata: %w", err)
	}
	return nil // it is just not in the index
}
