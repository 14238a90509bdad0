package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// lookForSockets is how often the unix sockets are checked.
const lookForSockets = time.Second

// sockets are the unix sockets that the daemon created. Cleaners of temporary files
// remove them, so they are created again. It may be used concurrently.
type sockets struct {
	log  *slog.Logger
	data string // the data directory, which is never created again

	mu   sync.Mutex
	list []*socket
	old  map[net.Listener]bool // replaced listeners
	over bool
}

// socket is one unix socket.
type socket struct {
	path  string
	serve func(net.Listener) // returns when the listener is closed, and calls wg.Done
	l     *net.UnixListener
	id    fileID // of the file at path when it was created
	told  bool   // it was logged that it cannot be created again
}

// fileID identifies a file.
type fileID struct{ dev, ino uint64 }

func fileAt(path string) (fileID, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return fileID{}, err
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, errors.New("no inode number")
	}
	return fileID{s.Dev, s.Ino}, nil
}

// add takes over a new socket, and serves it.
func (s *sockets) add(wg *sync.WaitGroup, l *net.UnixListener, serve func(net.Listener)) {
	path := l.Addr().String()
	id, err := fileAt(path)
	if err != nil {
		s.log.Warn("a new socket disappeared at once", "socket", path, "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, &socket{path: path, serve: serve, l: l, id: id})
	wg.Add(1)
	go serve(l)
}

// keep creates missing sockets again, until ctx ends.
func (s *sockets) keep(ctx context.Context, wg *sync.WaitGroup) {
	t := time.NewTicker(lookForSockets)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.look(wg)
		case <-ctx.Done():
			return
		}
	}
}

func (s *sockets) look(wg *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.list {
		if s.over {
			return
		}
		id, err := fileAt(k.path)
		if err == nil && id == k.id {
			k.told = false
			continue
		}
		if err == nil { // another file is there, perhaps a socket in use
			err = removeStale(k.path)
		}
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = s.remake(wg, k)
		}
		if err != nil && !k.told {
			k.told = true
			s.log.Error("a socket was removed and cannot be created again", "socket", k.path, "error", err)
		}
	}
}

// remake replaces a socket that was removed. Open connections stay.
func (s *sockets) remake(wg *sync.WaitGroup, k *socket) error {
	if dir := filepath.Dir(k.path); dir != s.data {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	l, err := listenUnix(k.path)
	if err != nil {
		return err
	}
	id, err := fileAt(k.path)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if s.old == nil {
		s.old = map[net.Listener]bool{}
	}
	s.old[k.l] = true
	k.l.SetUnlinkOnClose(false) // the path belongs to the new socket
	_ = k.l.Close()
	k.l, k.id, k.told = l, id, false
	wg.Add(1)
	go k.serve(l)
	s.log.Warn("a socket was removed and was created again", "socket", k.path)
	return nil
}

// replaced tells whether a listener was replaced, so that its end is not a
// failure.
func (s *sockets) replaced(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.old[l]
}

// stop ends the recreation. Files of others at the sockets' paths stay when the
// sockets are closed.
func (s *sockets) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for _, k := range s.list {
		if id, err := fileAt(k.path); err != nil || id != k.id {
			k.l.SetUnlinkOnClose(false)
		}
	}
}
