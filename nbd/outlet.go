package nbd

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/paraglide/glide/nbd/internal/fifo"
	"github.com/paraglide/glide/nbd/internal/socket"
)

// Bounds on the replies due on one connection. Above them it reads no new requests.
// A request that was already read may overshoot by its own size (32 MiB).
const (
	maxPromises = 1024     // requests whose replies will come from other goroutines
	maxOwed     = 16 << 20 // bytes of replies promised or waiting for the socket
)

// drainPiece is how much the drain writes under one deadline. A client that reads
// less than this in Options.WriteTimeout has stalled.
const drainPiece = 64 << 10

// pushTries is how many times per Options.WriteTimeout the drain checks for progress.
const pushTries = 4

// outlet is the sending side of one connection. The receive loop, the readers and
// the flusher give it whole replies, and it never makes them wait for the client.
// Data that the socket does not take at once goes to a queue, which a goroutine
// drains while there is something in it. The queue is bounded, because each sender
// first reserved room for its replies, by promise or room.
//
// Under TLS, the outlet is the connection that TLS writes its records to.
type outlet struct {
	net.Conn
	raw     syscall.RawConn // of Conn; if it has none, nil, and everything goes through the queue
	timeout time.Duration   // without progress, after which the client counts as stalled
	limit   time.Duration   // without progress, after which it is disconnected
	stalled atomic.Int64    // bytes that wait for a stalled client

	mu       sync.Mutex
	changed  sync.Cond // with mu: less is owed, or err was set
	queue    fifo.Queue[piece]
	queued   int // bytes in queue
	promises int // replies that will come
	promised int // bytes of those replies
	draining bool
	err      error // why nothing can be sent any more

	corks  int     // calls of cork without their uncork
	stage  *buffer // what was written since, its first staged bytes; may be nil
	staged int

	// The argument and results of attempt, which is made once so that trying
	// the socket does not allocate. Guarded by mu.
	attempt    func(fd uintptr) bool
	attemptBuf []byte
	attemptN   int
	attemptErr error
}

// piece is bytes that wait for the socket, and the buffer they are in.
type piece struct {
	b   []byte
	buf *buffer
}

func newOutlet(nc net.Conn, timeout, limit time.Duration) *outlet {
	o := &outlet{Conn: nc, timeout: timeout, limit: limit}
	o.changed.L = &o.mu
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			o.raw = raw
		}
	}
	o.attempt = func(fd uintptr) bool {
		for {
			n, err := syscall.Write(int(fd), o.attemptBuf)
			switch err {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				n, err = 0, nil
			}
			o.attemptN, o.attemptErr = max(n, 0), err
			return true // whatever happened: do not wait until it is writable
		}
	}
	return o
}

// Write sends a copy of p, later if the outlet is corked. It is what TLS calls.
func (o *outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.corks == 0 {
		o.putLocked(p, nil)
	} else {
		o.stageLocked(p)
	}
	if o.err != nil {
		return 0, o.err
	}
	return len(p), nil
}

// cork makes what is written wait for an uncork, so that the records of one
// reply go to the socket together: TLS writes each of its own, of 16 KiB at most.
func (o *outlet) cork() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corks++
}

// uncork undoes one cork.
func (o *outlet) uncork() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.corks--; o.corks == 0 {
		o.unstageLocked()
	}
}

// stageLocked adds p to what waits for an uncork, or for more of it.
func (o *outlet) stageLocked(p []byte) {
	for len(p) > 0 {
		if o.stage == nil {
			o.stage = getBuffer(largeOutput)
		}
		n := copy(o.stage.b[o.staged:], p)
		p = p[n:]
		if o.staged += n; o.staged == len(o.stage.b) {
			o.unstageLocked()
		}
	}
}

func (o *outlet) unstageLocked() {
	if o.stage != nil && !o.putLocked(o.stage.b[:o.staged], o.stage) {
		o.stage.release()
	}
	o.stage, o.staged = nil, 0
}

// post sends the first n bytes of buf. It tells whether it kept buf; if not,
// buf is the caller's again.
func (o *outlet) post(buf *buffer, n int) (kept bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.putLocked(buf.b[:n], buf)
}

// deliver is post for replies that were promised.
func (o *outlet) deliver(buf *buffer, n, promises, promised int) (kept bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept = o.putLocked(buf.b[:n], buf)
	o.keptLocked(promises, promised)
	return kept
}

// promise announces replies that other goroutines will deliver, once what is
// owed leaves room for them.
func (o *outlet) promise(promises, promised int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && !o.roomLocked() {
		o.changed.Wait()
	}
	o.promises += promises
	o.promised += promised
	return o.err
}

// tryPromise is promise where there is room now.
func (o *outlet) tryPromise(promises, promised int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || !o.roomLocked() {
		return false
	}
	o.promises += promises
	o.promised += promised
	return true
}

// keep marks promises as kept, or as pointless.
func (o *outlet) keep(promises, promised int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keptLocked(promises, promised)
}

// room waits until the connection may read more requests.
func (o *outlet) room() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && !o.roomLocked() {
		o.changed.Wait()
	}
	return o.err
}

// settled waits until all promises were kept and all replies are with the socket.
func (o *outlet) settled() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && (o.promises > 0 || o.draining) {
		o.changed.Wait()
	}
	return o.err
}

// quiet tells whether no promise is open.
func (o *outlet) quiet() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.promises == 0
}

// failed returns why nothing can be sent any more, or nil.
func (o *outlet) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// fail drops what is queued and closes the socket, which wakes whoever reads it.
func (o *outlet) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failLocked(err)
}

func (o *outlet) failLocked(err error) {
	if o.err != nil {
		return
	}
	o.err = err
	o.stalled.Store(0)
	_ = o.Conn.Close()
	o.changed.Broadcast()
}

func (o *outlet) roomLocked() bool {
	return o.promises < maxPromises && o.promised+o.queued < maxOwed
}

func (o *outlet) keptLocked(promises, promised int) {
	o.promises -= promises
	o.promised -= promised
	o.changed.Broadcast()
}

// putLocked sends p: straight to the socket if nothing waits before it and the
// socket has room, the rest through the queue. p lies in buf, which it then
// keeps; without a buf it copies.
func (o *outlet) putLocked(p []byte, buf *buffer) (kept bool) {
	if o.err != nil {
		return false
	}
	if !o.draining && o.raw != nil {
		o.attemptBuf = p
		err := o.raw.Write(o.attempt)
		o.attemptBuf = nil
		if err == nil {
			err = o.attemptErr
		}
		if err != nil {
			o.failLocked(err)
			return false
		}
		p = p[o.attemptN:]
	}
	if len(p) == 0 {
		return false
	}
	if kept = buf != nil; !kept {
		buf = getBuffer(len(p))
		p = buf.b[:copy(buf.b, p)]
	}
	o.queue.Push(piece{p, buf})
	o.queued += len(p)
	if !o.draining {
		o.draining = true
		go o.drain()
	}
	return kept
}

// drain writes the queue to the socket, and ends when it is empty. It is the
// only one that writes while draining is set.
func (o *outlet) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.queue.Len() > 0 {
		p := o.queue.Pop()
		if o.err == nil {
			o.mu.Unlock()
			err := o.push(p.b)
			o.mu.Lock()
			if err != nil {
				o.failLocked(err)
			}
		}
		p.buf.release()
		o.queued -= len(p.b)
		o.changed.Broadcast()
	}
	_ = o.SetWriteDeadline(time.Time{})
	o.draining = false
	o.stalled.Store(0)
	o.changed.Broadcast()
}

// push writes p, however slowly, as long as there is progress. A socket with
// much in it does not take more before the client has taken most of that, so
// what is still in it is looked at as well.
func (o *outlet) push(p []byte) error {
	still := time.Duration(0) // so long without progress
	for len(p) > 0 {
		before := socket.Unsent(o.raw)
		if err := o.SetWriteDeadline(time.Now().Add(o.timeout / pushTries)); err != nil {
			return err
		}
		n, err := o.Conn.Write(p[:min(len(p), drainPiece)])
		p = p[n:]
		switch {
		case err != nil && !os.IsTimeout(err):
			return err
		case err == nil || n > 0 || socket.Unsent(o.raw) < before:
			still = 0
			o.stalled.Store(0)
			continue
		}
		if still += o.timeout / pushTries; still >= o.limit {
			return errStalled
		}
		if still >= o.timeout {
			o.mu.Lock()
			o.stalled.Store(int64(o.queued))
			o.mu.Unlock()
		}
	}
	return nil
}
