package nbd

import (
	"errors"
	"fmt"
	"github.com/paraglide/glide/nbd/internal/socket"
	"net"
	"syscall"
	"time"
)

// Bounds on the machine's resources that connections take.
const (
	// mostConns bounds the default of MaxConns: each connection may block a thread in
	// a write to the disk, and a Go program may have 10,000 threads by default.
	mostConns = 8192
	// maxRejected bounds the connections that are being refused with a message;
	// others are closed without one.
	maxRejected = 64
	// rejectTime is how long a client may take to read the message.
	rejectTime = 5 * time.Second
	// maxStalled is how many bytes of replies may wait, over all connections, for
	// local clients that have stopped reading. Above it, those with the most are
	// disconnected.
	maxStalled = 256 << 20
)

// defaultMaxConns leaves half of the files that the process may open to others: to the
// device, and to the operator who investigates too many connections.
func defaultMaxConns() int {
	files := socket.OpenFiles()
	if files == 0 || files/2 > mostConns {
		return mostConns
	}
	return max(1, int(files/2))
}

// Counts are a server's numbers for metrics.
type Counts struct {
	Connections int    // open now
	Limit       int    // of open connections
	Refused     uint64 // connections beyond the limit, since the start
	Panics      uint64 // requests in which the device or the server panicked, since the start
}

// Counts returns the server's numbers. It may be called at any time.
func (s *Server) Counts() Counts {
	s.init()
	s.mu.Lock()
	n := Counts{Connections: len(s.conns) - s.turning, Limit: s.opt.MaxConns, Refused: s.refused}
	s.mu.Unlock()
	s.panics.mu.Lock()
	defer s.panics.mu.Unlock()
	n.Panics = s.panics.count
	return n
}

// admitLocked decides about a connection: admit it, refuse it with a message, or
// close it (false).
func (s *Server) admitLocked(c *conn, exempt bool) bool {
	n := len(s.conns) - s.turning
	if exempt || n < s.opt.MaxConns {
		return true
	}
	s.refused++
	if now := time.Now(); now.Sub(s.saidFull) >= sayEvery {
		s.saidFull = now
		s.log.Warn("nbd: connections are refused: there are as many as there may be", "limit", s.opt.MaxConns, "refused", s.refused)
	}
	if s.turning >= maxRejected {
		return false
	}
	s.turning++
	c.refuseWhy = fmt.Sprintf("too many NBD connections: there are %d, the limit of this server", n)
	return true
}

// sayEvery is how often the log has the same trouble.
const sayEvery = time.Minute

// fatal tells whether a listener is done for. Whatever else is wrong with an
// accept, such as a lack of descriptors or memory, or a connection that broke in
// the backlog, passes.
func fatal(err error) bool {
	for _, e := range []error{net.ErrClosed, syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	var errno syscall.Errno
	return !errors.As(err, &errno) // no word of the system's: a listener of another kind
}

// shedLocked gives up local clients that stopped reading, those with the most
// waiting first, while they hold too much memory together.
func (s *Server) shedLocked() {
	total := int64(0)
	for c := range s.conns {
		total += c.out.stalled.Load()
	}
	for total > s.opt.maxStalled {
		var worst *conn
		most := int64(0)
		for c := range s.conns {
			if n := c.out.stalled.Load(); n > most {
				worst, most = c, n
			}
		}
		if worst == nil {
			return
		}
		worst.out.stalled.Store(0)
		total -= most
		s.wg.Go(func() { worst.abort(errStalled) })
	}
}
