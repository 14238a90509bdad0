package nbd

import (
	"crypto/tls"
	"net"
	"time"
)

// Headroom is the size of an NBD request header on the wire. A Device that
// keeps a log may build a record header of at most this size in place, in
// front of the data, so that a received request becomes a log record without
// being copied.
const Headroom = 28

// Device is a block device to serve. All methods may be called concurrently, by many
// connections at once. Ranges are checked against Size before a method is called. An
// error that wraps an Errno is sent as that number, any other as EIO.
type Device interface {
	// Size in bytes; it may grow while connections are open.
	Size() uint64
	// ReadAt fills p from off. It may block for as long as it takes to fetch
	// the data; the server calls it from a pool, never from the receive loop.
	ReadAt(p []byte, off uint64) error
	// TryReadAt fills p from off if that needs no wait for a disk or a network, and
	// returns whether it did. It is called from the receive loop.
	TryReadAt(p []byte, off uint64) bool
	// WriteFrames writes frames[i][Headroom:] at offs[i], in order. Each
	// is one write, atomic across a crash. The device may overwrite only the first
	// Headroom bytes of every frame, and must not keep a frame after it returns.
	// Frames that are adjacent in memory may be written in one call. After an error,
	// none or only the first few were written.
	WriteFrames(offs []uint64, frames [][]byte) error
	// Zero makes the range read as zeros. With punch the space may be freed;
	// without it (NO_HOLE) it should stay allocated. TRIM is Zero with punch.
	Zero(off, length uint64, punch bool) error
	// Flush makes everything durable that was acknowledged, on any connection,
	// before the call.
	Flush() error
	// Prefetch hints that the range will be read (the CACHE command). It does not wait.
	Prefetch(off, length uint64)
	// Extents appends the maximal runs of equal state to dst, for one of the
	// export's metadata contexts. The runs are in order, without gaps, and clipped to
	// the range.
	Extents(dst []Extent, context string, off, length uint64) ([]Extent, error)
}

// Acknowledger is a Device that decides when a finished write may be acknowledged,
// because it must not get too far ahead of another copy of its data. All methods may
// be called concurrently.
type Acknowledger interface {
	Device
	// FlushWaits tells whether Flush may take much longer than a disk does. Such
	// flushes are passed to the device at once, many in parallel, and delay nothing
	// else.
	FlushWaits() bool
	// TryAcknowledge tells whether finished writes may be acknowledged now. It is
	// called from the receive loop.
	TryAcknowledge() bool
	// Acknowledge waits until all writes before the call may be acknowledged. An
	// error is the reply to those writes.
	Acknowledge() error
}

// Limiter is a Device that limits how fast requests begin. The server asks for every
// request but FLUSH, with the bytes of data that a READ or a WRITE carries and 0 for the
// others. All methods may be called concurrently.
type Limiter interface {
	Device
	// TryAdmit tells whether a request may begin now, and then counts it. It is called
	// from the receive loop.
	TryAdmit(bytes int) bool
	// Admit waits until a request may begin. An error is the reply to it.
	Admit(bytes int) error
}

// Extent is a run of bytes with one state in one metadata context. For
// base:allocation the flags are the protocol's (1 hole, 2 zero).
type Extent struct {
	Length uint64
	Flags  uint32
}

// Export is a Device under a name, as a client sees it.
type Export struct {
	Name        string
	Description string
	ReadOnly    bool
	// Contexts lists the metadata contexts beyond base:allocation, such as
	// "glide:dirty".
	Contexts []string
	Device   Device
	// Observe, if set, is Options.Observe for this export's connections alone.
	Observe func(op Op, bytes int, d time.Duration)
	// Closed, if set, is called once when the connection that opened the export has
	// ended. If the client vanished, calls of the Device for it may still run; their
	// results are dropped.
	Closed func()
}

// Exporter finds what a client asks for. All methods may be called
// concurrently.
type Exporter interface {
	// Open returns the export with the name; "" is the default export. Every
	// successful Open (the client's GO) is followed by one call of Closed. The text of
	// an error is sent to the client.
	Open(name string) (*Export, error)
	// Describe is Open for INFO: it keeps nothing open and wakes nothing. Of the
	// export's Device, only Size is called.
	Describe(name string) (*Export, error)
	// List returns the names for LIST.
	List() []string
}

// Peer is a client, as far as its connection tells.
type Peer struct {
	Conn net.Conn             // for who is at its other end; not for data
	TLS  *tls.ConnectionState // nil without TLS
	// End ends the connection, whatever it is doing: what is under way is answered to
	// nobody. Any goroutine may call it, and may do so when the connection is over.
	End func(why error)
}

// PerPeer is an Exporter that has other exports for each client. It is asked once in a
// connection, and again when TLS has begun; the text of an error is sent to the client.
type PerPeer interface {
	Exporter
	For(p Peer) (Exporter, error)
}
