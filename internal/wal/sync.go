package wal

import (
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
)

// Sync makes durable everything that was appended before the call. A lone caller syncs at
// once. Callers that find a sync in progress wait and share the next one.
func (l *Log) Sync() error { return l.SyncTo(l.last.Load()) }

// SyncTo makes durable every record through seq. After a failed sync it fails for every
// caller until Rewrite has succeeded. Otherwise the next sync of the same files would
// succeed although what the failed one covered is lost.
func (l *Log) SyncTo(seq uint64) error {
	if l.durable.Load() >= seq {
		return nil
	}
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	for l.durable.Load() < seq {
		if l.failed != nil {
			return l.failed
		}
		if l.syncing {
			l.synced.Wait()
			continue
		}
		l.syncing = true
		l.syncMu.Unlock()
		upTo, err := l.syncFiles()
		l.syncMu.Lock()
		l.syncing = false
		l.synced.Broadcast()
		if l.failed = err; err != nil {
			return err
		}
		if invariants.Enabled {
			invariants.Check(upTo <= l.last.Load(), "synced through %d, appended through %d", upTo, l.last.Load())
		}
		l.durable.Store(max(upTo, l.durable.Load()))
	}
	return nil
}

// Failed reports whether a sync failed that Rewrite has not repaired.
func (l *Log) Failed() bool {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	return l.failed != nil
}

// syncFiles syncs the rotated segments and then the current one.
func (l *Log) syncFiles() (upTo uint64, err error) {
	l.mu.Lock()
	upTo = l.last.Load()
	old := l.unsynced
	cur := l.cur
	l.mu.Unlock()
	for _, s := range old {
		if fault.Is("rotate-without-sync") {
			continue
		}
		if err := s.sync(); err != nil {
			return 0, err
		}
	}
	if cur != nil && !fault.Is("flush-without-sync") {
		if err := cur.sync(); err != nil {
			return 0, err
		}
	}
	if len(old) > 0 {
		l.mu.Lock()
		l.unsynced = l.unsynced[len(old):]
		l.mu.Unlock()
		l.indexing.Add(1)
		go func() {
			defer l.indexing.Done()
			for _, s := range old {
				_ = s.finish() // the index only saves time at the next start
				s.releaseLog()
			}
		}()
	}
	return upTo, nil
}

// ErrSync marks a failed fdatasync. What it covered may be lost, even if a second call
// succeeds.
var ErrSync = fmt.Errorf("the disk did not keep what was written to it")

func (s *Segment) sync() error {
	s.pool.Stats.Syncs.Add(1)
	if err := s.file.SyncData(); err != nil && !fault.Is("failed-sync-is-success") {
		return errs.New(errs.Internal, "sync %s: %w: %w", s.name(), ErrSync, err)
	}
	return nil
}
