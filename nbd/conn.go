package nbd

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/nbd/internal/crowd"
	"github.com/paraglide/glide/nbd/internal/socket"
	"github.com/paraglide/glide/nbd/internal/wire"
)

// Sizes of what a connection reads into and collects replies in. The receive
// buffer grows with what arrives at once: a client that sends one request at a
// time stays in the processor's cache.
const (
	idleInput   = smallestBuffer        // what an idle connection keeps
	largeInput  = 2<<20 + bufferSlack   // as far as it grows for many requests
	largeOutput = 256<<10 + bufferSlack // replies that are sent together at most
	maxBatch    = 1024                  // writes that are given to the device together at most
	maxFlushes  = 256                   // flushes that are collected at most
	maxSkip     = 256 << 20             // payload of a refused write that is read and thrown away at most
)

// linger is how long a client may take to close its side after we have closed ours.
const linger = time.Second

// Why a connection ended.
var (
	errDisconnect = errors.New("the client disconnected")
	errVanished   = errors.New("the client vanished")
	errStalled    = errors.New("the client stopped reading")
	errHalf       = errors.New("the client stopped in the middle of a request")
	errStopped    = errors.New("the server is shutting down")
	errMagic      = errors.New("request with a wrong magic number")
	errFlood      = errors.New("write with an absurd length")
)

// conn is one connection. The goroutine that runs serve is the receive loop;
// what has no comment on who else may touch it is the receive loop's alone.
type conn struct {
	srv *Server
	exp Exporter // the listener's
	out *outlet
	in  net.Conn  // what the client says: the socket, or TLS
	tls *tls.Conn // nil without

	// Constant: why the connection is turned away, "" if it is not, and how long the
	// client may stand still when something is due.
	refuseWhy  string
	stallLimit time.Duration

	// Set by the handshake, constant afterwards.
	export     *Export
	dev        *guard
	structured bool
	contexts   []string // selected; the number of each is its index + 1

	// phase is 0 in the handshake, then odd while the receive loop works and even
	// while it reads. fat is set while it holds more memory than an idle
	// connection should. half is 0 if no rest of a request is due, and else another
	// number after each read. They are read by the server's watch, which keeps in
	// seen and seenHalf what it saw last, and in still since when it has seen nothing
	// of that rest.
	phase    atomic.Uint64
	fat      atomic.Bool
	half     atomic.Uint64
	seen     uint64
	seenHalf uint64
	still    time.Time
	ended    sync.Once
	member   *crowd.Member

	// deadline is when the handshake has to be over, in Unix nanoseconds; 0 while the
	// server is what takes the time.
	deadline atomic.Int64

	jobs jobs // guarded by readers.mu

	// The receive buffer: input.b[r:w] was received and not handled yet.
	input  *buffer
	r, w   int
	reads  uint64
	need   int  // bytes from r on that the next request takes, as far as known
	filled bool // the last read left no room: there is probably more

	// What is left to skip of a refused write's payload, and its reply.
	refusing bool
	refused  refusal
	skip     uint64

	// Replies that wait to be sent together: reply lies in output.
	output *buffer
	reply  []byte
	lost   error // why replies cannot be sent any more

	// Writes that wait to be given to the device together. The frames lie in input.
	offs   []uint64
	frames [][]byte
	writes []pending

	flushes []pending // wait for a flush of the device
	unacked []pending // were written, and wait for the device's word
	flusher flusher
}

// pending is a request that was received and is not answered yet.
type pending struct {
	cookie uint64
	op     Op
	fua    bool
	bytes  int
	start  time.Time
}

// refusal is why a request is not given to the device.
type refusal struct {
	cookie uint64
	errno  Errno
	why    string
}

// serve is the life of the connection.
func (c *conn) serve() {
	defer c.member.Leave()
	defer func() {
		if v := recover(); v != nil {
			_ = c.srv.panicked(v)
			c.end(errBug)
		}
	}()
	err := c.handshake()
	if err == nil {
		c.phase.Store(1)
		c.srv.log.Info("nbd: connected", "export", c.export.Name, "client", c.client())
		err = c.transmit()
		if err == errDisconnect || err == errStopped {
			c.farewell()
		}
		if lost := c.out.failed(); lost != nil {
			err = lost // the cause of what the receive loop saw
		}
	}
	c.end(err)
	c.input.release()
	c.output.release()
}

// farewell ends the connection the good way: what was asked is answered first.
// If the client vanishes meanwhile, the watch ends the wait.
func (c *conn) farewell() {
	if c.out.settled() != nil {
		return
	}
	if c.tls != nil {
		_ = c.tls.CloseWrite()
	}
	// To close a TCP socket with unread requests in it would throw away the
	// replies that are on their way: let the client close first.
	if t, ok := c.out.Conn.(*net.TCPConn); ok && t.CloseWrite() == nil {
		_ = t.SetReadDeadline(time.Now().Add(linger))
		_, _ = io.Copy(io.Discard, t)
	}
}

// now is the time, if somebody wants to know how long requests take.
func (c *conn) now() time.Time {
	if c.srv.opt.Observe == nil && c.export.Observe == nil {
		return time.Time{}
	}
	return time.Now()
}

// observe reports a request that was begun at start. Any goroutine may call it.
func (c *conn) observe(op Op, bytes int, start time.Time) {
	if start.IsZero() {
		return
	}
	took := time.Since(start)
	if f := c.srv.opt.Observe; f != nil {
		f(op, bytes, took)
	}
	if f := c.export.Observe; f != nil {
		f(op, bytes, took)
	}
}

// client names the peer for the log.
func (c *conn) client() string {
	if a := c.out.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "local"
}

// end ends the connection. It may be called at any time once the handshake is
// over; requests that are still under way are answered to nobody.
func (c *conn) end(why error) {
	c.ended.Do(func() {
		c.out.fail(net.ErrClosed)
		if c.export == nil {
			c.srv.log.Debug("nbd: handshake ended", "client", c.client(), "why", why)
			return
		}
		if c.export.Closed != nil {
			_, _ = protect(c.srv, func() (struct{}, error) { c.export.Closed(); return struct{}{}, nil })
		}
		c.srv.log.Info("nbd: disconnected", "export", c.export.Name, "client", c.client(), "why", why)
	})
}

// abort ends the connection whatever it is doing. Anyone may call it.
func (c *conn) abort(why error) {
	if c.phase.Load() == 0 {
		c.out.fail(why) // and the handshake will find out
		return
	}
	c.end(why)
}

// transmit receives and handles requests until the connection ends. Each turn
// handles all requests that were received whole, and then sends the replies.
func (c *conn) transmit() error {
	c.input = getBuffer(idleInput)
	for {
		err := c.handleInput()
		c.settle()
		if err == nil {
			err = c.lost
		}
		if err != nil {
			return err
		}
		if err := c.receive(); err != nil {
			return err
		}
	}
}

// handleInput handles the whole requests in the receive buffer.
func (c *conn) handleInput() error {
	for c.lost == nil {
		if c.refusing {
			n := min(c.skip, uint64(c.w-c.r))
			c.r += int(n)
			if c.skip -= n; c.skip > 0 {
				return nil
			}
			c.refuse(c.refused)
			c.refusing = false
		}
		if c.need = wire.RequestSize; c.w-c.r < c.need {
			return nil
		}
		req, ok := wire.DecodeRequest(c.input.b[c.r:c.w])
		if !ok {
			return errMagic
		}
		if req.Type != wire.CmdWrite {
			c.r += wire.RequestSize
			if req.Type == wire.CmdDisc {
				return errDisconnect
			}
			c.handle(req)
			continue
		}
		if no, bad := c.check(req); bad {
			if req.Length > maxSkip {
				return errFlood
			}
			c.writeBatch() // replies to writes stay in order
			c.r += wire.RequestSize
			c.refusing, c.refused, c.skip = true, no, uint64(req.Length)
			continue
		}
		if c.need += int(req.Length); c.w-c.r < c.need {
			return nil
		}
		if err := c.admit(req); err != nil {
			c.writeBatch() // replies to writes stay in order
			c.refuse(refusalOf(req.Cookie, OpWrite, err))
		} else {
			c.addWrite(req, c.input.b[c.r:c.r+c.need:c.r+c.need])
		}
		c.r += c.need
	}
	return nil
}

// receive reads more of what the client sent.
func (c *conn) receive() error {
	c.makeRoom()
	if c.reads++; c.w > c.r || c.refusing {
		c.half.Store(c.reads)
	} else {
		c.half.Store(0)
	}
	for {
		c.phase.Add(1)
		if c.tls == nil && c.out.raw != nil { // TLS may have what it received in memory
			c.member.Wait(c.out.raw)
		}
		n, err := c.in.Read(c.input.b[c.w:])
		c.phase.Add(1)
		c.w += n
		c.filled = c.w == len(c.input.b)
		switch {
		case n > 0:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			// The watch or Shutdown wants our attention.
			c.readDeadline(time.Time{})
			if c.srv.stopping.Load() {
				return errStopped
			}
			c.slim()
		case err == io.EOF:
			return errVanished
		case err != nil:
			return err
		}
	}
}

// makeRoom makes room in the receive buffer for the next request, and more
// room if there was not enough the last time.
func (c *conn) makeRoom() {
	size := len(c.input.b)
	want := size
	if size > largeInput && c.w-c.r <= largeInput && c.need <= largeInput {
		want = largeInput // the huge request is done with
	} else if c.filled {
		want = max(size, min(4*(size-bufferSlack)+bufferSlack, largeInput))
	}
	if c.need > want {
		// A client must have sent some of a huge request before it gets
		// memory for the whole.
		if want = largeInput; c.need > largeInput && c.w-c.r >= largeInput {
			want = c.need
		}
	}
	switch {
	case want != size:
		c.resizeInput(want)
	case c.r == c.w:
		c.r, c.w = 0, 0
	case c.r+c.need > size || size-c.w < size/4:
		c.w = copy(c.input.b, c.input.b[c.r:c.w])
		c.r = 0
	}
}

// look is the server's watch on this connection, called twice a second.
func (c *conn) look() {
	phase := c.phase.Load()
	unchanged := phase == c.seen
	c.seen = phase
	now := time.Now()
	if half := c.half.Load(); half == 0 || half != c.seenHalf || phase%2 == 1 {
		c.seenHalf, c.still = half, now
	}
	switch {
	case phase == 0:
		// Reads end by themselves. Replies that nobody takes have to be ended.
		if at := c.deadline.Load(); at != 0 && now.UnixNano() > at {
			c.srv.wg.Go(func() { c.out.fail(os.ErrDeadlineExceeded) })
		}
	case now.Sub(c.still) >= c.stallLimit:
		c.srv.wg.Go(func() { c.end(errHalf) })
	case !unchanged:
	case phase%2 == 1:
		// The receive loop waits for the device or for room, and cannot notice
		// that the client is gone.
		if c.out.raw != nil && socket.HungUp(c.out.raw) {
			c.srv.wg.Go(func() { c.end(errVanished) })
		}
	case c.fat.Load():
		c.wake()
	}
}

// resizeInput moves what was received to a buffer of at least the given size.
func (c *conn) resizeInput(size int) {
	old := c.input
	c.input = getBuffer(size)
	c.w = copy(c.input.b, old.b[c.r:c.w])
	c.r = 0
	old.release()
	c.fat.Store(len(c.input.b) > idleInput+bufferSlack || c.output != nil)
}

// slim gives back the memory that an idle connection does not need.
func (c *conn) slim() {
	if c.w-c.r <= idleInput {
		c.resizeInput(idleInput)
	}
	c.output.release()
	c.output, c.reply = nil, nil
	c.fat.Store(len(c.input.b) > idleInput+bufferSlack)
}

// readDeadline sets the deadline of reads, which are over for good when the
// server is stopping.
func (c *conn) readDeadline(t time.Time) {
	c.member.Awake()
	_ = c.out.SetReadDeadline(t)
	if c.srv.stopping.Load() {
		c.wake()
	}
}

// wake interrupts the receive loop's read. Anyone may call it.
func (c *conn) wake() {
	c.member.Wake()
	_ = c.out.SetReadDeadline(time.Unix(1, 0))
}

// reserve makes room for n more bytes of replies.
func (c *conn) reserve(n int) {
	if len(c.reply)+n <= cap(c.reply) {
		return
	}
	if len(c.reply)+n > largeOutput {
		c.send()
	}
	if len(c.reply)+n > cap(c.reply) {
		old := c.output
		c.output = getBuffer(min(4*(len(c.reply)+n), largeOutput))
		c.reply = c.output.b[:copy(c.output.b, c.reply)]
		old.release()
		c.fat.Store(true)
	}
}

// send sends the replies that were collected, and waits while the client is
// owed too much.
func (c *conn) send() {
	if len(c.reply) == 0 {
		return
	}
	if c.tls != nil {
		c.writeTLS(c.reply)
	} else if c.out.post(c.output, len(c.reply)) {
		c.output, c.reply = nil, nil
	}
	c.reply = c.reply[:0]
	c.lost = c.out.room()
}

// deliver sends the first n bytes of buf, which is given up, and so keeps
// promises of so many bytes. Any goroutine may call it.
func (c *conn) deliver(buf *buffer, n, promises, promised int) {
	if c.tls != nil {
		c.writeTLS(buf.b[:n])
		c.out.keep(promises, promised)
	} else if c.out.deliver(buf, n, promises, promised) {
		return
	}
	buf.release()
}

// writeTLS sends p over TLS. Any goroutine may call it.
func (c *conn) writeTLS(p []byte) {
	c.out.cork()
	defer c.out.uncork()
	if _, err := c.tls.Write(p); err != nil {
		c.out.fail(err)
	}
}
