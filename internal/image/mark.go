package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
)

// markName is the extended attribute of a raw image that looks like another format
// because of what its guest wrote. It tells Open that the image is raw. Its value has
// the length and a hash of the sample, so it does not apply to a file that was changed
// or replaced since.
const markName = "user.glide.raw"

func (s *sample) mark() string {
	h := sha256.New()
	_, _ = h.Write(s.head)
	_, _ = h.Write(s.tail)
	return fmt.Sprintf("1 %d %x", s.length, h.Sum(nil))
}

// isMarked tells whether f has the mark of a raw image.
func isMarked(f *os.File, s *sample) bool {
	want := s.mark()
	b := make([]byte, len(want)+1)
	n, err := unix.Fgetxattr(int(f.Fd()), markName, b)
	return err == nil && string(b[:n]) == want
}

// Watched is a Source that remembers the sample by which formats are recognized.
type Watched struct {
	api.Source
	s sample
}

// Watch watches src, which must not have been read from yet.
func Watch(src api.Source) *Watched {
	n := src.Size()
	return &Watched{src, sample{make([]byte, min(headLen, n)), make([]byte, min(tailLen, n)), int64(n)}}
}

// Next implements api.Source.
func (w *Watched) Next() (api.Extent, error) {
	e, err := w.Source.Next()
	if err == nil {
		overlay(w.s.head, 0, e)
		overlay(w.s.tail, uint64(w.s.length)-uint64(len(w.s.tail)), e)
	}
	return e, err
}

// overlay copies the part of e that overlaps b into b, which begins at off.
func overlay(b []byte, off uint64, e api.Extent) {
	from, to := max(off, e.Off), min(off+uint64(len(b)), e.Off+uint64(len(e.Data)))
	if from < to {
		copy(b[from-off:], e.Data[from-e.Off:to-e.Off])
	}
}

// Guise is the format that a raw image of the data read would seem to have, with its
// article: "a qcow2 image"; "" if it looks raw.
func (w *Watched) Guise() string {
	what := w.s.find()
	if what.kind == isRaw && w.s.cutShort() != nil {
		return "an image that is cut short"
	}
	return what.name
}

// MarkRaw marks f, which holds the data read, as a raw image. If the file system has no
// extended attributes, the error is errors.ErrUnsupported.
func (w *Watched) MarkRaw(f *os.File) error {
	err := unix.Fsetxattr(int(f.Fd()), markName, []byte(w.s.mark()), 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		return errors.ErrUnsupported
	}
	return err
}
