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

// pair is a key and the value that it gets; nil removes it.
type pair struct {
	key   string
	value []byte
}

// save stores pairs, all or none, durably. After an error none is stored, nor
// will be.
func (m *DB) save(list []pair) error {
	if err := m.ready(); err != nil {
		return err
	}
	m.gate.RLock()
	defer m.gate.RUnlock()
	at, before, err := m.now(list)
	if err == nil {
		err = m.store(list, pebble.Sync)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		for key, a := range m.ahead {
			if a.seq <= at { // it went into the same log earlier
				delete(m.ahead, key)
			}
		}
		return nil
	}
	if m.in.fence.err() != nil { // the database may have it all the same
		for key, value := range before {
			if m.ahead[key].seq <= at {
				m.ahead[key] = ahead{never, value}
			}
		}
	}
	return m.writeError(err)
}

// never is the place of what no later save makes durable.
const never = math.MaxUint64

// ready is nil if the metadata can be written, now if not before.
func (m *DB) ready() error {
	m.mu.Lock()
	err, stuck := m.failed, m.stuck
	m.mu.Unlock()
	if err != nil && !stuck && m.Revive() == nil {
		return nil
	}
	return err
}

// now returns what pairs are to replace.
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

// saveSoon stores pairs. It does not fail for want of a disk: what that does not
// take is kept for when it does.
func (m *DB) saveSoon(list []pair) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
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

// store hands pairs to the instance.
func (m *DB) store(list []pair, how *pebble.WriteOptions) error {
	in := m.in
	if in.readOnly {
		return pebble.ErrReadOnly
	}
	return in.run(func() error { return storeIn(in.db, list, how) })
}

func storeIn(db *pebble.DB, list []pair, how *pebble.WriteOptions) error {
	b := db.NewBatch()
	defer func() { _ = b.Close() }()
	for _, p := range list {
		var err error
		if p.value == nil {
			err = b.Delete([]byte(p.key), nil)
		} else {
			err = b.Set([]byte(p.key), p.value, nil)
		}
		if err != nil {
			return err
		}
	}
	return b.Commit(how)
}

// writeError says why something was not stored. Under mu.
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

// Err is why the metadata cannot be written; nil if it can.
func (m *DB) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// Revive lets the metadata be written again, if the disk takes writes: nil if
// it does, and if it always did. A caller who does so from time to time tries
// even what went wrong before for another reason than the disk.
func (m *DB) Revive() error {
	if m.well() { // without keeping anybody out
		return nil
	}
	m.gate.Lock()
	defer m.gate.Unlock()
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

// well tells whether the metadata can be written, and lets what waits for room try
// again.
func (m *DB) well() bool {
	m.gate.RLock()
	defer m.gate.RUnlock()
	m.in.fence.nudge()
	return m.in.fence.err() == nil && !m.in.readOnly
}

// tryWrite finds out whether the disk takes writes.
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

// reopen opens the database for writing, with what is ahead of it. Under gate.
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
	if err := in.run(func() error { return storeIn(in.db, list, pebble.Sync) }); err != nil {
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
	return openInstance(m.opts.FS, m.opts.Dir, m.opts.Give, func(o *pebble.Options) {
		o.ReadOnly = readOnly
		o.ErrorIfNotExists = readOnly || m.in != nil // an empty directory in its place is not it
	})
}

// replace makes in the instance that is used, and watches it. Under gate.
func (m *DB) replace(in *instance) {
	if m.in != nil {
		// One that only reads has nothing to lose by not being closed well.
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

// readOnly puts an instance that reads in the place of one that failed.
func (m *DB) readOnly(failed *instance) {
	m.gate.Lock()
	defer m.gate.Unlock()
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

// Stuck tells that the disk takes writes, and yet the database could not be
// opened: to try that again costs memory each time.
func (m *DB) Stuck() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck
}
