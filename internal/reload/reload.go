// Package reload keeps up to date what a daemon has read from files: tokens,
// certificates, settings. A file that changed is read again; one that cannot be
// read, or makes no sense, leaves what was read before in use, which is said once.
package reload

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// every is how often files are looked at.
const every = time.Second

// Watcher knows what was read from which files. It may be used concurrently.
type Watcher struct {
	log *slog.Logger

	mu      sync.Mutex
	sources []*source
}

type source struct {
	name  string
	paths []string
	load  func() error
	seen  []mark
}

// mark tells one state of a file from another; the zero mark is that of one that
// is not there.
type mark struct {
	dev, ino  uint64
	size      int64
	modified  time.Time
	attribute time.Time // when its owner, mode or name changed
}

// New returns a Watcher that tells log what it reads.
func New(log *slog.Logger) *Watcher { return &Watcher{log: log} }

// Add reads something for the first time, whose error it returns, and again
// whenever one of the files has changed. load keeps what was read before when
// it fails; it is called by one goroutine at a time.
func (w *Watcher) Add(name string, load func() error, paths ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &source{name: name, paths: paths, load: load, seen: marks(paths)}
	if err := load(); err != nil {
		return err
	}
	w.sources = append(w.sources, s)
	return nil
}

// Run looks for changes until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = w.Read(false) // it is logged
		case <-ctx.Done():
			return
		}
	}
}

// Read reads again what has changed, or everything. The error joins those of
// what could not be read.
func (w *Watcher) Read(everything bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, s := range w.sources {
		errs = append(errs, w.read(s, everything))
	}
	return errors.Join(errs...)
}

func (w *Watcher) read(s *source, anyway bool) error {
	now := marks(s.paths)
	changed := false
	for i := range now {
		changed = changed || now[i] != s.seen[i]
	}
	if !changed && !anyway {
		return nil
	}
	s.seen = now
	if err := s.load(); err != nil {
		w.log.Error("a changed file cannot be used, what was read before stays in use", "what", s.name, "error", err)
		return err
	}
	w.log.Info("read again", "what", s.name)
	return nil
}

func marks(paths []string) []mark {
	list := make([]mark, len(paths))
	for i, p := range paths {
		list[i] = markOf(p)
	}
	return list
}

func markOf(path string) mark {
	st, err := os.Stat(path) // through links: what is mounted by an orchestrator is one
	if err != nil {
		return mark{size: -1, ino: errorMark(err)}
	}
	m := mark{size: st.Size(), modified: st.ModTime()}
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		m.dev, m.ino, m.attribute = s.Dev, s.Ino, time.Unix(s.Ctim.Unix())
	}
	return m
}

// errorMark tells a file that is missing from one that is kept from us.
func errorMark(err error) uint64 {
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	return 1
}
