package api

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// imageRoutes carry images in and out, as streams of frames.
var imageRoutes = []route{
	{
		method: http.MethodPut, path: "/v1/volumes/{name}/image", query: []string{"size"},
		status: http.StatusOK, out: reflect.TypeFor[Import](), serve: importImage,
	},
	{method: http.MethodGet, path: "/v1/volumes/{name}/image", status: http.StatusOK, serve: exportImage},
}

const (
	// streamBuffer joins small frames, bytes.
	streamBuffer = 64 << 10
	// drainTime is how long a sender may take to notice that its image was refused.
	drainTime = 10 * time.Second
)

func importImage(s *server, w http.ResponseWriter, r *http.Request) error {
	size, err := strconv.ParseUint(r.URL.Query().Get("size"), 10, 64)
	if err != nil {
		return errs.New(errs.Invalid, "an import needs size=BYTES, the size of the volume")
	}
	if ct := r.Header.Get("Content-Type"); ct != ImageType {
		return errs.New(errs.Invalid, "an import takes a stream of type %s (not %.60q): use `glide import`", ImageType, ct)
	}
	// The answer may come before all of the image has.
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	out, err := s.Import(r.Context(), r.PathValue("name"), size, ReadImage(bufio.NewReaderSize(r.Body, streamBuffer), size))
	if err == nil {
		return encode(w, http.StatusOK, out)
	}
	// If the connection were closed now, the sender might see only that. So it gets
	// the error, and its data is dropped until it has noticed.
	w.Header().Set("Connection", "close")
	s.fail(w, r, 0, err)
	if rc.Flush() == nil && rc.SetReadDeadline(time.Now().Add(drainTime)) == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	return nil
}

func exportImage(s *server, w http.ResponseWriter, r *http.Request) error {
	x, err := s.Export(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	defer x.Close()
	src := newExport(r.Context(), x)
	defer src.stop()
	w.Header().Set("Content-Type", ImageType)
	w.Header().Set(SizeHeader, strconv.FormatUint(x.Size(), 10))
	if err := WriteImage(w, src); err != nil && r.Context().Err() == nil {
		s.log.Warn("an export broke off", "volume", r.PathValue("name"), "error", err)
		// The reason was sent, if possible. The missing end mark shows the failure anyway.
	}
	return nil
}

const (
	// exportChunk is how much one read asks for, in bytes.
	exportChunk = 1 << 20
	// exportDepth is how many reads are under way at once: what is not on this
	// host takes a store's round trip each.
	exportDepth = 4
	// exportRuns is how many runs of extents are taken at once, so that neither
	// a fragmented nor an empty volume costs memory or time by its size.
	exportRuns = 4096
)

// export is an Exported as a Source, read ahead.
type export struct {
	x      Exported
	queue  chan chan chunkRead // reads in order, each with room for its result
	cancel context.CancelFunc
	err    error // why the queue ended early; set before it is closed
	wg     sync.WaitGroup
	free   sync.Pool
	last   []byte // what Next returned
}

type chunkRead struct {
	Extent
	err error
}

func newExport(ctx context.Context, x Exported) *export {
	e := &export{x: x, queue: make(chan chan chunkRead, exportDepth)}
	e.free.New = func() any { b := make([]byte, exportChunk); return &b }
	ctx, e.cancel = context.WithCancel(ctx)
	e.wg.Go(func() {
		defer close(e.queue)
		e.err = e.readAll(ctx)
	})
	return e
}

// stop ends what is under way and waits for it.
func (e *export) stop() {
	e.cancel()
	for range e.queue {
	}
	e.wg.Wait()
}

func (e *export) Size() uint64 { return e.x.Size() }

// Next implements Source.
func (e *export) Next() (Extent, error) {
	if buf := e.last; buf != nil {
		e.free.Put(&buf)
		e.last = nil
	}
	result, ok := <-e.queue
	if !ok {
		return Extent{}, cmp.Or(e.err, io.EOF)
	}
	r := <-result
	if r.err == nil {
		e.last = r.Data[:cap(r.Data)]
	}
	return r.Extent, r.err
}

// enqueue runs read beside the others; its result is next in order.
func (e *export) enqueue(ctx context.Context, read func() chunkRead) {
	result := make(chan chunkRead, 1)
	e.wg.Go(func() { result <- read() })
	select {
	case e.queue <- result:
	case <-ctx.Done():
	}
}

var errEnough = errors.New("enough")

// readAll starts the reads of all data of the volume, in order.
func (e *export) readAll(ctx context.Context) error {
	type run struct{ off, length uint64 }
	var runs []run
	for pos, size := uint64(0), e.x.Size(); pos < size; {
		runs = runs[:0]
		err := e.x.Extents(ctx, pos, size-pos, func(length uint64, hole bool) error {
			if !hole {
				runs = append(runs, run{pos, length})
			}
			pos += length
			if len(runs) == exportRuns {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		for _, r := range runs {
			for end := r.off + r.length; r.off < end && ctx.Err() == nil; r.off += exportChunk {
				off, n := r.off, min(exportChunk, end-r.off)
				e.enqueue(ctx, func() chunkRead {
					buf := *e.free.Get().(*[]byte)
					err := e.x.ReadAt(ctx, buf[:n], off)
					return chunkRead{Extent{off, buf[:n]}, err}
				})
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
