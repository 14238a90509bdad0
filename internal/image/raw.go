package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// raw is a raw image in a file. It does not read holes that the file system reports.
type raw struct {
	f       *os.File
	length  int64 // of the file, when it was opened
	pos     int64 // all before it was returned
	dataEnd int64 // what begins at pos ends here at the latest
	read    uint64
	buf     []byte
	left    pieces
}

func newRaw(f *os.File, length int64) *raw {
	return &raw{f: f, length: length, buf: make([]byte, chunk)}
}

func (r *raw) Size() uint64 { return pad(uint64(r.length)) }

// Next implements api.Source.
func (r *raw) Next() (api.Extent, error) {
	for {
		if e, ok := r.left.next(); ok {
			return e, nil
		}
		if r.pos >= r.dataEnd {
			if err := r.seek(); err != nil {
				return api.Extent{}, err
			}
		}
		n := int(min(chunk, r.dataEnd-r.pos))
		if got, err := r.f.ReadAt(r.buf[:n], r.pos); got < n {
			if err == io.EOF {
				return api.Extent{}, r.truncated(r.pos + int64(got))
			}
			return api.Extent{}, fmt.Errorf("read the image at byte %d: %w", r.pos, err)
		}
		padded := int(pad(uint64(n))) // only the last chunk's length is odd
		clear(r.buf[n:padded])
		r.left = pieces{uint64(r.pos), r.buf[:padded]}
		r.pos += int64(n)
		r.read += uint64(n)
	}
}

// seek finds the next range of data; io.EOF if there is none.
func (r *raw) seek() error {
	if r.pos >= r.length {
		return r.end()
	}
	data, err := r.f.Seek(r.pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return r.end() // a hole up to the end
	case err != nil: // a file system that does not know
		r.dataEnd = r.length
		return nil
	}
	hole, err := r.f.Seek(data, unix.SEEK_HOLE)
	if err != nil {
		hole = r.length // also if the file was cut meanwhile, which reading shows
	}
	r.pos, r.dataEnd = data, min(hole, r.length)
	if data >= r.length { // the file grew
		return r.end()
	}
	return nil
}

// end returns io.EOF if the file still has its original length.
func (r *raw) end() error {
	r.pos, r.dataEnd = r.length, r.length
	now, err := r.f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	if now < r.length {
		return r.truncated(now)
	}
	return io.EOF
}

func (r *raw) truncated(at int64) error {
	return errs.New(errs.Corrupt, "the image was cut short while it was read: it had %d bytes and ends at byte %d now", r.length, at)
}
