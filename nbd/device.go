package nbd

import "time"

// Headroom is the size of an NBD request header on the wire. A Device that
// keeps a log may build a record header of at most this size in place, in
// front of the data, so that a received request becomes a log record without
// being copied.
const Headroom = 28

// Device is what is served. All methods may be called concurrently, by many
// connections at once. Ranges have been checked against Size before a method is
// called. An error that wraps an Errno is sent as that number, any other as EIO.
type Device interface {
	// Size in bytes; it may grow while connections are open.
	Size() uint64
	// ReadAt fills p from off. It may block for as long as it takes to fetch
	// the data; the server calls it from a pool, never from the receive loop.
	ReadAt(p []byte, off uint64) error
	// TryReadAt fills p from off if that is possible without waiting for a
	// disk or a network, and tells whether it did. Called from the receive loop.
	TryReadAt(p []byte, off uint64) bool
	// WriteFrames writes frames[i][Headroom:] at offs[i], in order. Each
	// is one write, atomic across a crash. The device may overwrite the first
	// Headroom bytes of every frame, and nothing else; it keeps no frame
	// after it returned. When several frames lie next to each other in memory
	// they may be written in one call. On an error none, or some first ones, were written.
	WriteFrames(offs []uint64, frames [][]byte) error
	// Zero makes the range read as zeros; with punch the space may be freed,
	// without it (NO_HOLE) it should stay allocated. TRIM is Zero with punch.
	Zero(off, length uint64, punch bool) error
	// Flush makes durable all that was acknowledged, on whatever connection,
	// before it was called.
	Flush() error
	// Prefetch hints that the range will be read (the CACHE command). It does not wait.
	Prefetch(off, length uint64)
	// Extents appends to dst the maximal runs of equal state within the
	// range, in order and without gaps, clipped to the range, for the named metadata context, of which
	// the device offers those in Contexts.
	Extents(dst []Extent, context string, off, length uint64) ([]Extent, error)
}

// Acknowledger is a Device that may have a say in when a write is acknowledged,
// after it was made: one that has promised to be only so far ahead of another
// copy of its data. All methods may be called concurrently.
type Acknowledger interface {
	Device
	// FlushWaits tells whether Flush may take far longer than a disk does. Such
	// flushes are given to the device as they come, many at once, and hold
	// nothing else up.
	FlushWaits() bool
	// TryAcknowledge tells whether what was written may be acknowledged now. It
	// is called from the receive loop.
	TryAcknowledge() bool
	// Acknowledge waits until everything that was written before the call may
	// be acknowledged. An error is the reply to those writes.
	Acknowledge() error
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
	// Closed, if set, is called once when the connection that opened the
	// export has ended. If the client vanished, that may be while calls of the
	// Device for it are under way: they take as long as they take, and their
	// results go nowhere.
	Closed func()
}

// Exporter finds what a client asks for. All methods may be called
// concurrently.
type Exporter interface {
	// Open returns the export with the name; "" asks for the default one. Every
	// successful Open (the client's GO) is followed by one call of Closed. An error's text is sent to the client.
	Open(name string) (*Export, error)
	// Describe is Open for INFO: nothing stays open, nothing is woken. Of the
	// export's Device only Size is called.
	Describe(name string) (*Export, error)
	// List returns the names to show to LIST.
	List() []string
}
