package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/installation"
	"github.com/paraglide/glide/internal/objstore"
)

const (
	// markerFile, in the data directory, names the store that passed the probe. With
	// it, a start makes no request.
	markerFile = "store-proved"
	// startProbe is how long a start waits for the store, which local volumes do not
	// need.
	startProbe = 5 * time.Second
)

// provedStore opens a store when it is first needed, and probes it before anything
// is created in it: ownership of volumes rests on the store's refusal to create an
// object that exists.
type provedStore struct {
	url    string
	opts   objstore.Options
	ledger *cost.Ledger
	marker string
	known  bool // the marker named it when the daemon started
	proved atomic.Bool

	mu      sync.Mutex // held while the store is opened
	bare    objstore.Store
	encrypt objstore.EncryptFor
	store   atomic.Pointer[objstore.Store]
}

// openStore opens the store, and probes it unless it passed at an earlier start. A
// store that does not answer does not keep the daemon from serving; a wrong answer
// or an invalid URL does.
func openStore(ctx context.Context, c *config.Config, counter *objstore.Counter, ledger *cost.Ledger, log *slog.Logger) (objstore.Store, error) {
	s := &provedStore{url: c.Store, marker: filepath.Join(c.Data, markerFile), opts: objstore.Options{Counter: counter}, ledger: ledger}
	s.opts.Retry.OnRetry = func(op objstore.Op, key string, err error) {
		log.Debug("request to the store repeated", "op", op.String(), "key", key, "error", err)
	}
	s.opts.OnCredentials = func(err error) {
		if err != nil {
			log.Error("new credentials of the store are not available, the old ones stay in use", "error", err)
			return
		}
		log.Info("the credentials of the store were read again")
	}
	b, err := os.ReadFile(s.marker)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, datadir.Unusable(c.Data, err)
	}
	s.known = string(b) == s.mark()
	s.proved.Store(s.known)
	pctx, cancel := context.WithTimeout(ctx, startProbe)
	defer cancel()
	_, err = s.open(pctx)
	if err == nil {
		err = s.prove(pctx)
	}
	if err == nil {
		return s, nil
	}
	if k := errs.KindOf(err); k == errs.Invalid || k == errs.Unsupported || ctx.Err() != nil {
		return nil, err
	}
	log.Warn("the store cannot be used yet; local volumes are served", "store", c.Store, "error", err)
	return s, nil
}

// open returns the store, opened.
func (s *provedStore) open(ctx context.Context) (objstore.Store, error) {
	if p := s.store.Load(); p != nil {
		return *p, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.store.Load(); p != nil {
		return *p, nil
	}
	if err := s.checkGone(); err != nil {
		return nil, err
	}
	store, err := objstore.Open(ctx, s.url, s.opts)
	if err != nil {
		return nil, err
	}
	if s.encrypt != nil {
		if err := objstore.SetEncryption(store, s.encrypt); err != nil {
			return nil, err
		}
	}
	s.bare = store
	store = s.ledger.Wrap(store)
	s.store.Store(&store)
	return store, nil
}

// SetEncryption is called by objstore.SetEncryption.
func (s *provedStore) SetEncryption(by objstore.EncryptFor) error {
	if !strings.HasPrefix(s.url, "s3:") {
		return errs.New(errs.Unsupported, "%s: this store has no encryption for each key", s.url)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.encrypt = by; s.bare != nil {
		return objstore.SetEncryption(s.bare, by)
	}
	return nil
}

// checkGone finds a store directory that has disappeared: a new, empty one in its
// place would look as if all volumes had been removed.
func (s *provedStore) checkGone() error {
	dir, ok := objstore.FileDir(s.url)
	if !s.known || !ok {
		return nil
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.Unavailable, "the store %s is gone: is it mounted? (to begin with an empty one, remove %s)", s.url, s.marker)
	}
	return nil
}

// prove probes the store, unless it has passed. Callers may run concurrently.
func (s *provedStore) prove(ctx context.Context) error {
	if s.proved.Load() {
		return nil
	}
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	if err := installation.Prove(cost.Begin(ctx, cost.Upkeep, cost.Volume{}), store, s.url); err != nil {
		return err
	}
	s.proved.Store(true)
	// Without the marker the next start probes it again.
	_ = os.WriteFile(s.marker, []byte(s.mark()), 0o600)
	return nil
}

// mark is the content of the marker for a store that passed this program's probe.
func (s *provedStore) mark() string {
	return fmt.Sprintf("%s\nprobe %d\n", s.url, objstore.ProbeVersion)
}

// Reload makes the store read its credentials again.
func (s *provedStore) Reload(ctx context.Context) error {
	if p := s.store.Load(); p != nil {
		return objstore.Reload(ctx, *p)
	}
	return nil
}

// String implements objstore.Store.
func (s *provedStore) String() string {
	if p := s.store.Load(); p != nil {
		return (*p).String()
	}
	return s.url
}

// Get implements objstore.Store.
func (s *provedStore) Get(ctx context.Context, key string) ([]byte, error) {
	store, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return store.Get(ctx, key)
}

// GetRange implements objstore.Store.
func (s *provedStore) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	store, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return store.GetRange(ctx, key, off, n)
}

// Put implements objstore.Store.
func (s *provedStore) Put(ctx context.Context, key string, data []byte) error {
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	return store.Put(ctx, key, data)
}

// PutIfAbsent implements objstore.Store. It is the one request that needs the
// probe's result, except for the probe's own requests.
func (s *provedStore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if !objstore.IsProbe(key) {
		if err := s.prove(ctx); err != nil {
			return err
		}
	}
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	return store.PutIfAbsent(ctx, key, data)
}

// Head implements objstore.Store.
func (s *provedStore) Head(ctx context.Context, key string) (objstore.Info, error) {
	store, err := s.open(ctx)
	if err != nil {
		return objstore.Info{}, err
	}
	return store.Head(ctx, key)
}

// List implements objstore.Store.
func (s *provedStore) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	store, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return store.List(ctx, prefix, after, limit)
}

// Delete implements objstore.Store.
func (s *provedStore) Delete(ctx context.Context, key string) error {
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	return store.Delete(ctx, key)
}

// DeleteBatch implements objstore.Store.
func (s *provedStore) DeleteBatch(ctx context.Context, keys []string) error {
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	return store.DeleteBatch(ctx, keys)
}
