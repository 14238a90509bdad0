package api

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"

	"github.com/paraglide/glide/internal/errs"
)

// An image travels, in both directions, as a stream of frames. All integers are
// little-endian.
//
//	 0  8  offset on the disk, bytes
//	 8  4  length, 1 to 4 MiB
//	12  …  the data
//
// Offsets rise and frames do not overlap. A skipped range is a hole. The last frame
// ends the stream; a stream without it is an error, whatever came before:
//
//	 0  8  size of the disk, bytes
//	 8  4  0
//	12  4  CRC32C of everything before these four bytes
//
// A sender that has nothing to send sends this every few seconds, so that it is
// not taken for lost:
//
//	0  8  0
//	8  4  fffffffe
//
// A sender that cannot continue sends the reason instead:
//
//	 0  8  length of the message, at most 64 KiB
//	 8  4  ffffffff
//	12  …  the message: an Error in JSON
const (
	// ImageType is the media type of a stream of frames.
	ImageType = "application/vnd.glide.image"
	// SizeHeader holds the size of the sent image's disk, in bytes.
	SizeHeader = "Glide-Size"
	// maxFrame bounds the data of one frame, in bytes.
	maxFrame = 4 << 20

	frameHeader = 12
	frameEnd    = 0
	frameAbort  = 0xffffffff
	frameWait   = 0xfffffffe
	maxAbort    = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteImage writes src to w as a stream of frames. If src fails, it sends the reason
// and returns src's error. An extent without data means that src waits; the receiver
// learns that at once if w has a Flush.
func WriteImage(w io.Writer, src Source) error {
	f := frameWriter{w: w}
	for {
		e, err := src.Next()
		if err == io.EOF {
			return f.end(src.Size())
		}
		if err != nil {
			// Whether the receiver gets the reason does not change the error.
			_ = f.abort(err)
			return err
		}
		if len(e.Data) == 0 {
			if err := f.wait(); err != nil {
				return err
			}
		}
		for off, data := e.Off, e.Data; len(data) > 0; {
			n := min(len(data), maxFrame)
			if err := f.frame(off, uint32(n), data[:n]); err != nil {
				return err
			}
			off, data = off+uint64(n), data[n:]
		}
	}
}

type frameWriter struct {
	w   io.Writer
	sum uint32
}

func (f *frameWriter) frame(off uint64, length uint32, data []byte) error {
	var h [frameHeader]byte
	binary.LittleEndian.PutUint64(h[:], off)
	binary.LittleEndian.PutUint32(h[8:], length)
	for _, b := range [][]byte{h[:], data} {
		f.sum = crc32.Update(f.sum, castagnoli, b)
		if _, err := f.w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (f *frameWriter) wait() error {
	if err := f.frame(0, frameWait, nil); err != nil {
		return err
	}
	if b, ok := f.w.(interface{ Flush() error }); ok {
		return b.Flush()
	}
	return nil
}

func (f *frameWriter) end(size uint64) error {
	if err := f.frame(size, frameEnd, nil); err != nil {
		return err
	}
	_, err := f.w.Write(binary.LittleEndian.AppendUint32(nil, f.sum))
	return err
}

func (f *frameWriter) abort(why error) error {
	b, err := json.Marshal(errorOf(why))
	if err != nil || len(b) > maxAbort {
		b = []byte(`{"error":"","kind":"internal"}`)
	}
	return f.frame(uint64(len(b)), frameAbort, b)
}

// ReadImage reads the stream of frames in r as an image of the given size.
func ReadImage(r io.Reader, size uint64) Source {
	return &frameReader{r: r, size: size}
}

type frameReader struct {
	r    io.Reader
	size uint64
	pos  uint64
	sum  uint32
	buf  []byte
	err  error // what the reader ended with
}

func (f *frameReader) Size() uint64 { return f.size }

// Next implements Source.
func (f *frameReader) Next() (Extent, error) {
	if f.err != nil {
		return Extent{}, f.err
	}
	e, err := f.next()
	if err != nil {
		f.err = err
	}
	return e, err
}

func (f *frameReader) next() (Extent, error) {
	var h [frameHeader]byte
	off, length := uint64(0), uint32(frameWait)
	for length == frameWait {
		if err := f.read(h[:]); err != nil {
			return Extent{}, err
		}
		off, length = binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint32(h[8:])
	}
	switch {
	case length == frameEnd:
		return Extent{}, f.readEnd(off)
	case length == frameAbort:
		return Extent{}, f.readAbort(off)
	case length > maxFrame || off < f.pos || off > f.size || uint64(length) > f.size-off:
		return Extent{}, badStream("a frame of %d bytes at %d follows byte %d of %d", length, off, f.pos, f.size)
	}
	if cap(f.buf) < int(length) {
		f.buf = make([]byte, max(int(length), min(2*cap(f.buf), maxFrame)))
	}
	data := f.buf[:length]
	if err := f.read(data); err != nil {
		return Extent{}, err
	}
	f.pos = off + uint64(length)
	return Extent{off, data}, nil
}

func (f *frameReader) read(p []byte) error {
	if _, err := io.ReadFull(f.r, p); err != nil {
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return badStream("it ends after byte %d of %d, without its end mark", f.pos, f.size)
		}
		return errs.New(errs.Unavailable, "the image was interrupted after byte %d of %d: %w", f.pos, f.size, err)
	}
	f.sum = crc32.Update(f.sum, castagnoli, p)
	return nil
}

func (f *frameReader) readEnd(size uint64) error {
	want := f.sum
	var sum [4]byte
	if err := f.read(sum[:]); err != nil {
		return err
	}
	if size != f.size {
		return badStream("it ends as one of %d bytes, and was announced with %d", size, f.size)
	}
	if binary.LittleEndian.Uint32(sum[:]) != want {
		return badStream("its checksum is wrong")
	}
	return io.EOF
}

func (f *frameReader) readAbort(length uint64) error {
	if length > maxAbort {
		return badStream("its sender gave up, with a message of %d bytes", length)
	}
	b := make([]byte, length)
	if err := f.read(b); err != nil {
		return err
	}
	var e Error
	if err := json.Unmarshal(b, &e); err != nil || e.Error == "" {
		return badStream("its sender gave up without saying why")
	}
	return errs.New(errs.FromString(e.Kind), "%s", e.Error)
}

func badStream(format string, args ...any) error {
	return errs.New(errs.Corrupt, "the image did not arrive whole: "+format, args...)
}

func errorOf(err error) Error {
	return Error{Error: err.Error(), Kind: errs.KindOf(err).String()}
}
