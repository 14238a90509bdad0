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

// streamBuffer joins small frames, bytes.
const streamBuffer = 64 << 10

// Import makes a volume of the given size from an image. An error of src comes
// back as it is; the daemon then keeps nothing. If the daemon fails while src has
// nothing to give, Import returns with a call of src.Next under way.
func (c *Client) Import(ctx context.Context, name string, size uint64, src Source) (Import, error) {
	r, w := io.Pipe()
	sender := &sender{}
	sender.wg.Go(func() {
		sender.err = send(w, src, c.beat)
		// Half an image must not look like a whole one: without its end mark it is none.
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

// sender is what writes an image into a request.
type sender struct {
	wg  sync.WaitGroup
	err error // after wg
}

var errAnswered = errors.New("answered")

// stop ends the sending, if need be, and returns what was wrong with the source.
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

// marked is a Source whose errors can be told from those of a connection.
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
			_ = b.Flush() // with why it ends; the error goes to the caller in any case
		}
		return err
	}
	return b.Flush()
}

// Export is a volume's content, from Client.Export. Close it in the end.
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
		return nil, errs.New(errs.Unavailable, "what answers at %s is no glide daemon, or another version: it sent no image", c.addr)
	}
	return &Export{api.ReadImage(bufio.NewReaderSize(resp.Body, streamBuffer), size), resp.Body}, nil
}

// Size is the size of the disk in bytes.
func (x *Export) Size() uint64 { return x.src.Size() }

// Next returns the next piece of the disk, io.EOF once all of it has arrived.
// What is skipped is a hole. The data is valid until the next call.
func (x *Export) Next() (Extent, error) { return x.src.Next() }

// Close ends the transfer.
func (x *Export) Close() error { return x.body.Close() }
