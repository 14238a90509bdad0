package image

import (
	"fmt"
	"io"
	"os"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// WriteRaw writes src to w in order, zeros included.
func WriteRaw(w io.Writer, src api.Source) error {
	var pos uint64
	for {
		e, err := src.Next()
		if err == io.EOF {
			return writeZeros(w, src.Size()-pos)
		}
		if err != nil {
			return err
		}
		if err := writeZeros(w, e.Off-pos); err != nil {
			return err
		}
		if _, err := w.Write(e.Data); err != nil {
			return writeError(err)
		}
		pos = e.Off + uint64(len(e.Data))
	}
}

func writeZeros(w io.Writer, n uint64) error {
	for n > 0 {
		m := min(n, uint64(len(zeros)))
		if _, err := w.Write(zeros[:m]); err != nil {
			return writeError(err)
		}
		n -= m
	}
	return nil
}

func writeError(err error) error { return fmt.Errorf("write the image: %w", err) }

// writeRawFile writes src to f. A regular file is emptied first and gets holes;
// anything else gets the zeros. A block device must be large enough.
func writeRawFile(f *os.File, src api.Source) error {
	st, err := f.Stat()
	if err != nil {
		return writeError(err)
	}
	switch m := st.Mode(); {
	case m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0:
		return writeDevice(f, src)
	case !m.IsRegular():
		return WriteRaw(f, src) // a pipe, or /dev/null
	}
	if err := f.Truncate(0); err != nil {
		return writeError(err)
	}
	for {
		e, err := src.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		left := pieces{e.Off, e.Data}
		for e, ok := left.next(); ok; e, ok = left.next() {
			if _, err := f.WriteAt(e.Data, int64(e.Off)); err != nil {
				return writeError(err)
			}
		}
	}
	if err := f.Truncate(int64(src.Size())); err != nil {
		return writeError(err)
	}
	return nil
}

func writeDevice(f *os.File, src api.Source) error {
	room, err := f.Seek(0, io.SeekEnd)
	if err == nil && uint64(room) < src.Size() {
		return errs.New(errs.Invalid, "%s has %d bytes, the image has %d: it does not fit", f.Name(), room, src.Size())
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return writeError(err)
	}
	return WriteRaw(f, src)
}
