// Package nbdclient is a small NBD client: fixed newstyle, structured replies,
// block status, TLS, and as many requests under way at once as the caller likes.
// It was written for tests, and holds the server to the letter of the protocol.
// Handshake does only the first part, for connections that the kernel then uses.
//
// A Client has one goroutine, which receives; callers send themselves.
package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
)

// Flags modify a request.
type Flags uint16

// The flags of requests.
const (
	FUA      = Flags(wire.CmdFlagFUA)
	NoHole   = Flags(wire.CmdFlagNoHole)
	DF       = Flags(wire.CmdFlagDF)
	ReqOne   = Flags(wire.CmdFlagReqOne)
	FastZero = Flags(wire.CmdFlagFastZero)
)

var commandOf = [nbd.NumOps]uint16{
	nbd.OpRead:   wire.CmdRead,
	nbd.OpWrite:  wire.CmdWrite,
	nbd.OpFlush:  wire.CmdFlush,
	nbd.OpTrim:   wire.CmdTrim,
	nbd.OpZero:   wire.CmdWriteZeroes,
	nbd.OpCache:  wire.CmdCache,
	nbd.OpStatus: wire.CmdBlockStatus,
}

// ErrClosed is the error of requests on a client that was closed.
var ErrClosed = errors.New("nbdclient: closed")

// Error is an error that the server replied with.
type Error struct {
	Errno   nbd.Errno
	Message string // may be empty
}

// Error returns the number in words, and the server's message.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Errno.Error()
	}
	return fmt.Sprintf("%v (%s)", e.Errno, e.Message)
}

// Unwrap returns the Errno.
func (e *Error) Unwrap() error { return e.Errno }

// Request is a request. The range of a read or a write is as long as Data,
// which is what to write, or where to read to; it must be left alone until the
// result is there.
type Request struct {
	Op     nbd.Op
	Flags  Flags
	Off    uint64
	Length uint32
	Data   []byte
}

// Result is the result of a request.
type Result struct {
	Request Request
	Err     error
	// Extents is the answer to OpStatus, by context.
	Extents map[string][]nbd.Extent
}

// Client is a connection to an export. Its methods may be called concurrently.
type Client struct {
	nc         net.Conn
	size       uint64
	flags      uint16
	structured bool
	contexts   map[uint32]string
	done       chan struct{} // closed when nothing is received any more

	send sync.Mutex // held while sending, so that requests stay whole

	mu      sync.Mutex
	cookie  uint64
	pending map[uint64]*call
	err     error // why there are no more replies
}

type call struct {
	result Result
	read   int // bytes of data that have come
	ch     chan Result
}

// Dial connects to a server and opens the export.
func Dial(ctx context.Context, network, address string, o Options) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return New(ctx, nc, o)
}

// New opens the export over a connection, which it takes over.
func New(ctx context.Context, nc net.Conn, o Options) (*Client, error) {
	c, err := open(ctx, nc, o)
	if err != nil {
		return nil, err
	}
	go c.receive()
	return c, nil
}

// open does the handshake. If it fails, the connection is closed.
func open(ctx context.Context, nc net.Conn, o Options) (*Client, error) {
	c := newClient()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	err := c.negotiate(nc, o)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("nbdclient: %w", err)
	}
	return c, nil
}

func newClient() *Client {
	return &Client{contexts: make(map[uint32]string), pending: make(map[uint64]*call), done: make(chan struct{})}
}

// Info is what a server says of an export in the handshake.
type Info struct {
	Size  uint64
	Flags uint16 // what it can do, as the protocol numbers them
}

// Handshake opens the export over a connection and leaves it to the caller,
// ready for requests with simple replies: for a client such as the kernel's, which
// does no handshake itself. If it fails, the connection is closed. It speaks no TLS.
func Handshake(ctx context.Context, nc net.Conn, export string) (Info, error) {
	c, err := open(ctx, nc, Options{Export: export, Simple: true})
	if err != nil {
		return Info{}, err
	}
	return Info{Size: c.size, Flags: c.flags}, nil
}

// Resume is a client on a connection that is past the handshake.
func Resume(nc net.Conn, i Info) *Client {
	c := newClient()
	c.nc, c.size, c.flags = nc, i.Size, i.Flags
	go c.receive()
	return c
}

// Size is the size of the export when it was opened.
func (c *Client) Size() uint64 { return c.size }

// ReadOnly tells whether the export is read-only.
func (c *Client) ReadOnly() bool { return c.flags&wire.ExportReadOnly != 0 }

// TransmissionFlags are the server's transmission flags for the export.
func (c *Client) TransmissionFlags() uint16 { return c.flags }

// Read fills p from off.
func (c *Client) Read(p []byte, off uint64) error {
	return c.do(Request{Op: nbd.OpRead, Off: off, Data: p}).Err
}

// Write writes p at off.
func (c *Client) Write(p []byte, off uint64, flags Flags) error {
	return c.do(Request{Op: nbd.OpWrite, Off: off, Data: p, Flags: flags}).Err
}

// Flush makes all finished writes durable, on any connection.
func (c *Client) Flush() error { return c.do(Request{Op: nbd.OpFlush}).Err }

// Trim frees the range.
func (c *Client) Trim(off uint64, length uint32, flags Flags) error {
	return c.do(Request{Op: nbd.OpTrim, Off: off, Length: length, Flags: flags}).Err
}

// Zero makes the range read as zeros.
func (c *Client) Zero(off uint64, length uint32, flags Flags) error {
	return c.do(Request{Op: nbd.OpZero, Off: off, Length: length, Flags: flags}).Err
}

// Cache hints that the range will be read.
func (c *Client) Cache(off uint64, length uint32) error {
	return c.do(Request{Op: nbd.OpCache, Off: off, Length: length}).Err
}

// BlockStatus returns the extents of the range, by selected context. They may
// end before the range does.
func (c *Client) BlockStatus(off uint64, length uint32, flags Flags) (map[string][]nbd.Extent, error) {
	r := c.do(Request{Op: nbd.OpStatus, Off: off, Length: length, Flags: flags})
	return r.Extents, r.Err
}

func (c *Client) do(r Request) Result { return <-c.Go(r) }

// Go sends a request, and returns a channel on which its result will come.
func (c *Client) Go(r Request) <-chan Result {
	if r.Op == nbd.OpRead || r.Op == nbd.OpWrite {
		r.Length = uint32(len(r.Data))
	}
	k := &call{result: Result{Request: r}, ch: make(chan Result, 1)}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		k.finish(c.err)
		return k.ch
	}
	c.cookie++
	cookie := c.cookie
	c.pending[cookie] = k
	c.mu.Unlock()

	msg := wire.AppendRequest(make([]byte, 0, wire.RequestSize), wire.Request{
		Flags: uint16(r.Flags), Type: commandOf[r.Op], Cookie: cookie, Offset: r.Off, Length: r.Length,
	})
	bufs := net.Buffers{msg}
	if r.Op == nbd.OpWrite {
		bufs = append(bufs, r.Data)
	}
	c.send.Lock()
	defer c.send.Unlock()
	if _, err := bufs.WriteTo(c.nc); err != nil {
		_ = c.nc.Close() // receive fails all that is pending, this one too
	}
	return k.ch
}

func (k *call) finish(err error) {
	k.result.Err = err
	k.ch <- k.result
}

// Close ends the connection cleanly. Requests in flight fail.
func (c *Client) Close() error {
	c.mu.Lock()
	open := c.err == nil
	if open {
		c.err = ErrClosed
	}
	c.mu.Unlock()
	if open {
		c.send.Lock()
		_, _ = c.nc.Write(wire.AppendRequest(nil, wire.Request{Type: wire.CmdDisc}))
		c.send.Unlock()
	}
	_ = c.nc.Close() // perhaps the server was faster
	<-c.done
	return nil
}

// receive takes replies until there are no more.
func (c *Client) receive() {
	var err error
	for err == nil {
		err = c.reply()
	}
	_ = c.nc.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = fmt.Errorf("nbdclient: %w", err)
	}
	for _, k := range c.pending {
		k.finish(c.err)
	}
	clear(c.pending)
	close(c.done)
}

// reply receives one simple reply, or one chunk of a structured one.
func (c *Client) reply() error {
	var head [wire.ChunkHeaderSize]byte
	if _, err := io.ReadFull(c.nc, head[:wire.SimpleReplySize]); err != nil {
		return err
	}
	if r, err := wire.DecodeSimpleReply(head[:wire.SimpleReplySize]); err == nil {
		return c.simpleReply(r)
	}
	if _, err := io.ReadFull(c.nc, head[wire.SimpleReplySize:]); err != nil {
		return err
	}
	chunk, err := wire.DecodeChunk(head[:])
	if err != nil {
		return err
	}
	if !c.structured {
		return errors.New("structured reply that was not negotiated")
	}
	k := c.call(chunk.Cookie)
	if k == nil {
		return fmt.Errorf("reply with unknown cookie %d", chunk.Cookie)
	}
	if err := c.chunk(chunk, k); err != nil {
		return err
	}
	if chunk.Flags&wire.ChunkFlagDone == 0 {
		return nil
	}
	if r := &k.result; r.Request.Op == nbd.OpRead && r.Err == nil && k.read != len(r.Request.Data) {
		return fmt.Errorf("read of %d bytes was answered with %d", len(r.Request.Data), k.read)
	}
	return c.finish(chunk.Cookie, k)
}

func (c *Client) simpleReply(r wire.SimpleReply) error {
	k := c.call(r.Cookie)
	if k == nil {
		return fmt.Errorf("reply with unknown cookie %d", r.Cookie)
	}
	if k.result.Request.Op == nbd.OpRead {
		if c.structured {
			return errors.New("simple reply to a read with structured replies")
		}
		if r.Error == 0 {
			if _, err := io.ReadFull(c.nc, k.result.Request.Data); err != nil {
				return err
			}
		}
	}
	if r.Error != 0 {
		k.result.Err = &Error{Errno: nbd.Errno(r.Error)}
	}
	return c.finish(r.Cookie, k)
}

// chunk receives the payload of a chunk.
func (c *Client) chunk(h wire.Chunk, k *call) error {
	r := &k.result
	if h.Type == wire.ChunkOffsetData {
		var off [8]byte
		n := int64(h.Length) - int64(len(off))
		if _, err := io.ReadFull(c.nc, off[:]); err != nil {
			return err
		}
		at := int64(wire.Offset(off)) - int64(r.Request.Off)
		if r.Request.Op != nbd.OpRead || n <= 0 || at < 0 || at+n > int64(len(r.Request.Data)) {
			return fmt.Errorf("%d bytes of data at %d for %v of %d at %d", n, at, r.Request.Op, r.Request.Length, r.Request.Off)
		}
		k.read += int(n)
		_, err := io.ReadFull(c.nc, r.Request.Data[at:at+n])
		return err
	}
	if h.Length > maxPayload {
		return fmt.Errorf("chunk of type %d with %d bytes", h.Type, h.Length)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.nc, payload); err != nil {
		return err
	}
	switch {
	case h.Type == wire.ChunkNone && h.Length == 0 && h.Flags&wire.ChunkFlagDone != 0:
		return nil
	case h.Type == wire.ChunkOffsetHole && r.Request.Op == nbd.OpRead:
		off, n, err := wire.DecodeHole(payload)
		if err != nil {
			return err
		}
		at := int64(off) - int64(r.Request.Off)
		if at < 0 || at+int64(n) > int64(len(r.Request.Data)) {
			return fmt.Errorf("hole of %d bytes at %d in a read of %d", n, at, r.Request.Length)
		}
		clear(r.Request.Data[at : at+int64(n)])
		k.read += int(n)
		return nil
	case h.Type == wire.ChunkBlockStatus && r.Request.Op == nbd.OpStatus:
		id, ds, err := wire.DecodeBlockStatus(payload)
		if err != nil {
			return err
		}
		name, ok := c.contexts[id]
		if _, twice := r.Extents[name]; !ok || twice {
			return fmt.Errorf("block status of context %d, unknown or twice", id)
		}
		if r.Extents == nil {
			r.Extents = make(map[string][]nbd.Extent)
		}
		for _, d := range ds {
			r.Extents[name] = append(r.Extents[name], nbd.Extent{Length: uint64(d.Length), Flags: d.Flags})
		}
		return nil
	case h.Type&wire.ChunkErrorBit != 0:
		errno, msg, err := wire.DecodeError(payload)
		r.Err = &Error{Errno: nbd.Errno(errno), Message: msg}
		return err
	}
	return fmt.Errorf("chunk of type %d with %d bytes for a %v", h.Type, h.Length, r.Request.Op)
}

func (c *Client) call(cookie uint64) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending[cookie]
}

func (c *Client) finish(cookie uint64, k *call) error {
	c.mu.Lock()
	delete(c.pending, cookie)
	c.mu.Unlock()
	k.ch <- k.result
	return nil
}
