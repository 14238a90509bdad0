// Package reload keeps what a daemon has read from files up to date: tokens,
// certificates, settings. It reads a changed file again. If the file cannot be read
// or makes no sense, the old content stays in use, and that is logged once.
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

// every is how often files are checked.
const every = time.Second

// Watcher remembers what was read from which files. It may be used concurrently.
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

// mark identifies one state of a file. The zero mark stands for a missing file.
type mark struct {
	dev, ino  uint64
	size      int64
	modified  time.Time
	attribute time.Time // when its owner, mode or name changed
}

// New returns a Watcher that logs what it reads.
func New(log *slog.Logger) *Watcher { return &Watcher{log: log} }

// Add calls load and returns its error. From then on, Run calls load again whenever
// one of the files has changed. A load that fails must keep its old state. It is
// called by one goroutine at a time.
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
			_ = w.Read(false) // errors are logged
		case <-ctx.Done():
			return
		}
	}
}

// Read reads changed files again, or all files. The error joins the errors of all
// files that could not be read.
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
		w.log.Error("a changed file cannot be used, its old content stays in use", "what", s.name, "error", err)
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
	st, err := os.Stat(path) // follows links: orchestrators mount files as links
	if err != nil {
		return mark{size: -1, ino: errorMark(err)}
	}
	m := mark{size: st.Size(), modified: st.ModTime()}
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		m.dev, m.ino, m.attribute = s.Dev, s.Ino, time.Unix(s.Ctim.Unix())
	}
	return m
}

// errorMark distinguishes a missing file from an unreadable one.
func errorMark(err error) uint64 {
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	return 1
}
