// Package stall ends requests over HTTP that make no progress, and no others.
package stall

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// A client may stop in the middle of a request or an answer while its machine is
// alive. It is disconnected after this time without progress. A client on the same
// machine is paused rather than gone, and gets longer.
const (
	stallTimeout      = time.Minute
	localStallTimeout = 10 * time.Minute
	// stallPiece is the part of an answer, in bytes, that is written under one
	// deadline: less of a large answer is progress, too.
	stallPiece = 64 << 10
)

// Limit bounds how long a request may make no progress: d, or if that is 0 a minute, and
// ten from this machine. The time to produce the answer does not count. Call done when the
// request is finished.
func Limit(w http.ResponseWriter, r *http.Request, d time.Duration) (lw http.ResponseWriter, lr *http.Request, done func()) {
	if d == 0 {
		d = stallTimeout
		if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && a.Network() == "unix" {
			d = localStallTimeout
		}
	}
	limited := &limitedWriter{ResponseWriter: w, rc: http.NewResponseController(w), d: d}
	if r.Body == nil || r.Body == http.NoBody {
		return limited, r, func() {}
	}
	body := &limitedBody{ReadCloser: r.Body, w: limited}
	with := *r
	with.Body = body
	return limited, &with, body.extend // for what nobody has read, and is thrown away now
}

// limitedWriter sets a deadline for each piece that it writes. One goroutine
// writes at a time, and one reads the body.
type limitedWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
	d  time.Duration

	mu    sync.Mutex // guards the deadline of reads of the body
	fixed bool       // somebody has set it
}

func (w *limitedWriter) begin() { _ = w.rc.SetWriteDeadline(time.Now().Add(w.d)) }

// WriteHeader implements http.ResponseWriter.
func (w *limitedWriter) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *limitedWriter) Write(p []byte) (n int, err error) {
	for {
		w.begin()
		m, err := w.ResponseWriter.Write(p[n:min(len(p), n+stallPiece)])
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// FlushError is called by http.ResponseController.
func (w *limitedWriter) FlushError() error {
	w.begin()
	return w.rc.Flush()
}

// SetReadDeadline is called by http.ResponseController: one deadline for the whole body. Any
// goroutine may call it.
func (w *limitedWriter) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fixed = true
	return w.rc.SetReadDeadline(t)
}

// Unwrap is called by http.ResponseController.
func (w *limitedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// limitedBody sets a deadline for each read of the body.
type limitedBody struct {
	io.ReadCloser
	w   *limitedWriter
	eof bool
}

// extend gives the next piece the full time.
func (b *limitedBody) extend() {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if !b.eof && !b.w.fixed {
		_ = b.w.rc.SetReadDeadline(time.Now().Add(b.w.d))
	}
}

// Read implements io.Reader.
func (b *limitedBody) Read(p []byte) (int, error) {
	b.w.begin() // the first read answers that the client may go on
	b.extend()
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && !b.eof {
		b.eof = true
		// The client owes nothing more. Its loss is noticed without a deadline.
		_ = b.w.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}
