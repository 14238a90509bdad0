package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// streamBuffer is the buffer that joins small frames, in bytes.
const streamBuffer = 64 << 10

// Import creates a volume of the given size from an image. An error of src is
// returned unchanged, and the daemon keeps nothing. If the daemon fails while src has
// no data, Import returns while a call of src.Next still runs.
func (c *Client) Import(ctx context.Context, name string, size uint64, src Source) (Import, error) {
	r, w := io.Pipe()
	sender := &sender{}
	sender.wg.Go(func() {
		sender.err = send(w, src, c.beat)
		// Half an image must not look complete: it has no end mark.
		_ = w.CloseWithError(sender.err)
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+volume(name, "image")+flags("size", strconv.FormatUint(size, 10)), r)
	if err == nil {
		req.ContentLength = -1
		req.Header.Set("Content-Type", api.ImageType)
		req.Header.Set("Expect", "100-continue")
		var resp *http.Response
		if resp, err = c.do(req); err == nil {
			var out Import
			out, err = answer[Import](c, resp)
			if err == nil {
				return out, sender.stop(r)
			}
		}
	}
	if serr := sender.stop(r); serr != nil {
		return Import{}, serr
	}
	return Import{}, err
}

// sender writes an image into a request.
type sender struct {
	wg  sync.WaitGroup
	err error // after wg
}

var errAnswered = errors.New("answered")

// stop ends the sending, if it still runs, and returns the source's error.
func (s *sender) stop(r *io.PipeReader) error {
	_ = r.CloseWithError(errAnswered)
	s.wg.Wait()
	var e sourceError
	if errors.As(s.err, &e) {
		return e.error
	}
	return nil
}

// sourceError is an error of the image, not of the connection.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// marked is a Source whose errors can be distinguished from connection errors.
type marked struct{ Source }

func (m marked) Next() (Extent, error) {
	e, err := m.Source.Next()
	if err != nil && err != io.EOF {
		err = sourceError{err}
	}
	return e, err
}

func send(w io.Writer, src Source, beat time.Duration) error {
	b := bufio.NewWriterSize(w, streamBuffer)
	beating := newBeating(marked{src}, beat)
	defer beating.stop()
	if err := api.WriteImage(b, beating); err != nil {
		var e sourceError
		if errors.As(err, &e) {
			_ = b.Flush() // sends the reason; the caller gets the error anyway
		}
		return err
	}
	return b.Flush()
}

// Export is a volume's content, from Client.Export. Close it at the end.
type Export struct {
	src  Source
	body io.Closer
}

// Export opens a cut of a volume, or a snapshot, for reading in order.
func (c *Client) Export(ctx context.Context, name string) (*Export, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+volume(name, "image"), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseUint(resp.Header.Get(api.SizeHeader), 10, 64)
	if err != nil || resp.Header.Get("Content-Type") != api.ImageType {
		_ = resp.Body.Close()
		return nil, errs.New(errs.Unavailable, "the server at %s is not a glide daemon, or has another version: it sent no image", c.addr)
	}
	return &Export{api.ReadImage(bufio.NewReaderSize(resp.Body, streamBuffer), size), resp.Body}, nil
}

// Size is the size of the disk in bytes.
func (x *Export) Size() uint64 { return x.src.Size() }

// Next returns the next piece of the disk, and io.EOF at the end. A skipped range is a
// hole. The data is valid until the next call.
func (x *Export) Next() (Extent, error) { return x.src.Next() }

// Close ends the transfer.
func (x *Export) Close() error { return x.body.Close() }
