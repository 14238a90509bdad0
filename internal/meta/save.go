package meta

import (
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/reserve"
)

// pair is a key and its new value; nil removes it.
type pair struct {
	key   string
	value []byte
}

// save stores pairs, all or none, durably. After an error none of them is stored, now
// or later.
func (m *DB) save(list []pair) error {
	if err := m.ready(); err != nil {
		return err
	}
	m.access.RLock()
	defer m.access.RUnlock()
	at, before, err := m.now(list)
	if err == nil {
		err = m.store(list, pebble.Sync)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		for key, a := range m.ahead {
			if a.seq <= at { // it was written to the same log earlier
				delete(m.ahead, key)
			}
		}
		return nil
	}
	if m.in.fence.err() != nil { // the database may have it anyway
		for key, value := range before {
			if m.ahead[key].seq <= at {
				m.ahead[key] = ahead{never, value}
			}
		}
	}
	return m.writeError(err)
}

// never is the sequence number of values that no later save makes durable.
const never = math.MaxUint64

// ready returns nil if the metadata can be written. If it could not, ready tries to
// make it writable first.
func (m *DB) ready() error {
	m.mu.Lock()
	err, stuck := m.failed, m.stuck
	m.mu.Unlock()
	if err != nil && !stuck && m.Revive() == nil {
		return nil
	}
	return err
}

// now returns the current values of the pairs' keys.
func (m *DB) now(list []pair) (at uint64, before map[string][]byte, err error) {
	m.mu.Lock()
	m.seq++
	at = m.seq
	before = make(map[string][]byte, len(list))
	for _, p := range list {
		if a, ok := m.ahead[p.key]; ok {
			before[p.key] = a.value
		}
	}
	m.mu.Unlock()
	for _, p := range list {
		if _, ok := before[p.key]; ok {
			continue
		}
		if before[p.key], err = m.in.read([]byte(p.key)); err != nil {
			return at, nil, err
		}
	}
	return at, before, nil
}

// saveSoon stores pairs. A disk error does not make it fail: values that the disk
// does not take are kept in memory until it does.
func (m *DB) saveSoon(list []pair) error {
	m.access.RLock()
	defer m.access.RUnlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	for _, p := range list {
		m.ahead[p.key] = ahead{m.seq, p.value}
	}
	if m.failed != nil {
		return nil
	}
	if err := m.store(list, pebble.NoSync); err != nil && m.in.fence.err() == nil {
		return m.writeError(err)
	}
	return nil
}

// store gives pairs to the instance.
func (m *DB) store(list []pair, how *pebble.WriteOptions) error {
	in := m.in
	if in.readOnly {
		return pebble.ErrReadOnly
	}
	return in.run(func() error { return in.storeAll(list, how) })
}

func (in *instance) storeAll(list []pair, how *pebble.WriteOptions) error {
	b := in.db.NewBatch()
	defer func() { _ = b.Close() }()
	for _, p := range list {
		var err error
		key := []byte(p.key)
		stored := in.vals.stored(key)
		if p.value == nil {
			err = b.Delete(stored, nil)
		} else {
			err = b.Set(stored, in.vals.seal(stored, key, p.value), nil)
		}
		if err != nil {
			return err
		}
	}
	return b.Commit(how)
}

// writeError returns why something was not stored. Under mu.
func (m *DB) writeError(err error) error {
	if m.failed != nil {
		return m.failed
	}
	return m.describe(err)
}

func (m *DB) describe(err error) error {
	kind, advice := errs.Unavailable, "check the disk; it goes on by itself once that takes writes"
	if reserve.IsFull(err) {
		kind, advice = errs.NoSpace, "make room on the disk; it goes on by itself then"
	}
	return errs.New(kind, "the metadata in %s cannot be written: %w: %s", m.opts.Dir, err, advice)
}

// Err returns why the metadata cannot be written; nil if it can.
func (m *DB) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// Revive makes the metadata writable again if the disk takes writes. It returns nil
// if that worked, or if the metadata was writable. Calling it from time to time also
// retries after errors that were not the disk's.
func (m *DB) Revive() error {
	if m.well() { // without the exclusive lock
		return nil
	}
	m.access.Lock()
	defer m.access.Unlock()
	if m.in.fence.err() == nil && !m.in.readOnly {
		return nil
	}
	err := m.tryWrite()
	if err == nil {
		err = m.reopen()
		m.mu.Lock()
		m.stuck = err != nil
		m.mu.Unlock()
	}
	if err != nil {
		return m.describe(err)
	}
	return nil
}

// well tells whether the metadata can be written, and makes changes that wait for
// room try again.
func (m *DB) well() bool {
	m.access.RLock()
	defer m.access.RUnlock()
	m.in.fence.nudge()
	return m.in.fence.err() == nil && !m.in.readOnly
}

// tryWrite tests whether the disk takes writes.
func (m *DB) tryWrite() error {
	fs := m.opts.FS
	path := fs.PathJoin(m.opts.Dir, "try")
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 1<<20))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), fs.Remove(path))
}

// reopen opens the database for writing, and stores the values kept ahead of it.
// Under gate.
func (m *DB) reopen() error {
	in, err := m.open(false)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]pair, 0, len(m.ahead))
	for key, a := range m.ahead {
		list = append(list, pair{key, a.value})
	}
	if err := in.run(func() error { return in.storeAll(list, pebble.Sync) }); err != nil {
		in.fence.fail(err)
		return err
	}
	m.replace(in)
	clear(m.ahead)
	m.failed = nil
	m.opts.Changed(nil)
	return nil
}

// begin opens the database for the first time.
func (m *DB) begin() error {
	in, err := m.open(false)
	if err != nil && errs.KindOf(err) != errs.Corrupt {
		var readErr error
		if in, readErr = m.open(true); readErr == nil {
			m.failed = m.describe(err)
			m.opts.Changed(m.failed)
			err = nil
		} else {
			err = fmt.Errorf("%w; nor can it be read: %w", err, readErr)
		}
	}
	if err != nil {
		return err
	}
	m.replace(in)
	return nil
}

// open opens an instance.
func (m *DB) open(readOnly bool) (*instance, error) {
	if m.in != nil {
		if m.in.fence.err() != nil {
			m.in.fence.drain()
		}
	}
	return openInstance(m.opts.FS, m.opts.Dir, m.vals, m.opts.Give, func(o *pebble.Options) {
		o.ReadOnly = readOnly
		o.ErrorIfNotExists = readOnly || m.in != nil // an empty directory is not the database
	})
}

// replace makes in the current instance, and watches it. Under gate.
func (m *DB) replace(in *instance) {
	if m.in != nil {
		// A read-only instance loses nothing if closing fails.
		_ = m.in.close()
	}
	m.in = in
	go func() {
		select {
		case <-in.closed:
		case <-in.fence.down:
			m.readOnly(in)
		}
	}()
}

// readOnly replaces a failed instance by a read-only one.
func (m *DB) readOnly(failed *instance) {
	m.access.Lock()
	defer m.access.Unlock()
	if m.in != failed {
		return
	}
	m.mu.Lock()
	m.failed = m.describe(fmt.Errorf("%w", failed.fence.err()))
	m.opts.Changed(m.failed)
	m.mu.Unlock()
	if in, err := m.open(true); err == nil {
		m.replace(in)
	}
}

// Stuck tells whether the disk takes writes but the database could not be opened.
// Each new attempt to open it costs memory.
func (m *DB) Stuck() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck
}
