// Package image reads disk images, raw and qcow2, as streams of extents in
// which holes stay holes, and writes such streams as images.
//
// An image whose length is not a multiple of 512 bytes is padded with zeros.
// Images come from anywhere and are not trusted. Their format is recognized by
// content, at the beginning and at the end, and only an image without the mark of any
// other format is taken for a raw disk. A qcow2 image is checked for everything that
// reading it relies on. Unknown content is refused, never read as something else.
package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

// Format is the format of an image.
type Format uint8

// The formats. Detect recognizes raw and qcow2 and refuses other formats. Auto is
// Detect, but lets qemu-img convert the formats that it reads. A guest can make its raw
// image look like another format; then the caller must name the format.
const (
	Detect Format = iota
	Raw
	Qcow2
	Auto
)

var formatNames = []string{Detect: "", Raw: "raw", Qcow2: "qcow2", Auto: "auto"}

// String is the format's name in flags.
func (f Format) String() string { return formatNames[f] }

// ParseFormat is the inverse of String; another name is a errs.Invalid.
func ParseFormat(name string) (Format, error) {
	if i := slices.Index(formatNames, name); i >= 0 {
		return Format(i), nil
	}
	return 0, errs.New(errs.Invalid, "the image format %.60q is not known: there are raw, qcow2 and auto", name)
}

// Options say how to read an image. The zero value has the defaults.
type Options struct {
	Format Format // Detect
	// Size, if not 0, is the size to present, in bytes. If it is larger than the
	// image, zeros follow; a smaller one is refused.
	Size uint64
	// SHA256, in hexadecimal, and Length must match the input as it is given, before
	// it is unpacked; "" and 0 match any. Both are checked before Next returns io.EOF.
	SHA256 string
	Length uint64
	// TempDir is for temporary files: streams that cannot be read in order, and
	// converted images. os.TempDir by default.
	TempDir string
}

// Image is an opened image; it implements api.Source.
type Image struct {
	api.Source
	report func() Report
	spools []*os.File
}

// Report describes an image that was read.
type Report struct {
	Format    string // "raw" or "qcow2", or what it was converted from
	Converted bool
	Marked    bool   // known to be raw by the mark of the export that wrote it
	Length    uint64 // of the image as it was given, bytes
	// Read is how many bytes were read: all, except the holes of a raw file.
	Read    uint64
	Padding uint64 // zeros that fill the last sector, bytes
}

// Report describes the image after Next has returned io.EOF.
func (i *Image) Report() Report { return i.report() }

// Close removes temporary files. The caller of Open closes its own file.
func (i *Image) Close() error {
	var errs []error
	for _, f := range i.spools {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

const (
	// chunk is how much is read at once, in bytes: a few blocks, which keeps the cost
	// of calls and frames low, and needs little memory.
	chunk = 1 << 20
	// grain is the shortest run of zeros, in bytes, that becomes a hole.
	grain = 64 << 10
)

// Open opens the image in f: a file, a block device, or a stream such as a pipe.
// A raw stream is read as it comes if opts has its size or its length. Otherwise, and
// in other formats, it is copied to a temporary file first, without its holes. ctx ends
// a conversion.
func Open(ctx context.Context, f *os.File, opts Options) (*Image, error) {
	length, ok, err := extentOf(f)
	if err != nil {
		return nil, err
	}
	if ok {
		return openFile(ctx, f, length, opts)
	}
	return openStream(ctx, f, opts)
}

// extentOf is the length of a file with random access; ok is false for a stream.
func extentOf(f *os.File) (length int64, ok bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("read the image: %w", err)
	}
	if st.IsDir() {
		return 0, false, errs.New(errs.Invalid, "%s is a directory, not an image", f.Name())
	}
	if !st.Mode().IsRegular() && st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return 0, false, nil
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		return 0, false, nil // standard input that somebody read from already
	}
	length, err = f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the image: %w", err)
	}
	return length, true, nil
}

func openStream(ctx context.Context, f *os.File, opts Options) (*Image, error) {
	in, err := newArrival(f, opts)
	if err != nil {
		return nil, err
	}
	what, err := in.sample.decide(opts.Format)
	if err != nil {
		return nil, err
	}
	to := opts.Size
	if to == 0 {
		to = pad(opts.Length)
	}
	if what.kind == isRaw && to > 0 && opts.Format != Auto { // what its end says may have to be converted
		if err := size.Check(to); err != nil {
			return nil, err
		}
		src := newStream(in, to)
		return &Image{Source: src, report: func() Report {
			n := uint64(in.sample.length)
			return Report{Format: Raw.String(), Length: n, Read: n, Padding: pad(n) - n}
		}}, nil
	}
	spool, length, err := spoolTo(opts.TempDir, in, opts.Length)
	if err != nil {
		return nil, err
	}
	if err = in.finish(); err == nil {
		opts.SHA256, opts.Length = "", 0 // they were checked
		var img *Image
		if img, err = openFile(ctx, spool, length, opts); err == nil {
			inner := img.report
			img.report = func() Report {
				r := inner()
				r.Read = r.Length // of a stream the holes come, too
				return r
			}
			img.spools = append(img.spools, spool)
			return img, nil
		}
	}
	return nil, errors.Join(err, spool.Close())
}

func openFile(ctx context.Context, f *os.File, length int64, opts Options) (*Image, error) {
	if length == 0 {
		return nil, errEmpty
	}
	s, err := sampleOf(f, length)
	if err != nil {
		return nil, err
	}
	what, err := s.decide(opts.Format)
	marked := false
	if err != nil || what.kind != isRaw {
		if marked = (opts.Format == Detect || opts.Format == Auto) && isMarked(f, s); marked {
			what, err = finding{}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := checkFile(f, length, opts); err != nil {
		return nil, err
	}
	img := &Image{}
	switch what.kind {
	case isRaw:
		r := newRaw(f, length)
		img.Source = r
		img.report = func() Report {
			return Report{Format: Raw.String(), Marked: marked, Length: uint64(length), Read: r.read, Padding: r.Size() - uint64(length)}
		}
	case isQcow2:
		q, err := openQcow2(f, length)
		if err != nil {
			return nil, err
		}
		img.Source, img.report = q, q.report(Report{Format: Qcow2.String(), Length: uint64(length)})
	default:
		spool, q, err := convert(ctx, f, length, what, opts.TempDir)
		if err != nil {
			return nil, err
		}
		img.spools = append(img.spools, spool)
		img.Source, img.report = q, q.report(Report{Format: what.tool, Converted: true, Length: uint64(length)})
	}
	if opts.SHA256 != "" {
		if img.Source, err = steady(img.Source, f); err != nil {
			return nil, errors.Join(err, img.Close())
		}
	}
	if img.Source, err = resize(img.Source, opts.Size); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

var errEmpty = errs.New(errs.Corrupt, "the image is empty: did what makes it fail? (an empty volume is made with glide create)")

// decide chooses how to read the image, given the requested format.
func (s *sample) decide(want Format) (finding, error) {
	switch want {
	case Raw:
		return finding{}, nil
	case Qcow2:
		return qcow2Image, nil
	}
	what := s.find()
	switch {
	case what.kind == isRaw:
		return what, s.cutShort()
	case what.kind == isQcow2, what.kind == isDisk && want == Auto:
		return what, nil
	}
	return what, what.refusal()
}

// resize presents src with another size.
func resize(src api.Source, to uint64) (api.Source, error) {
	have := src.Size()
	if to == 0 {
		to = have
	}
	if have == 0 && to == 0 {
		return nil, errs.New(errs.Invalid, "the image is of an empty disk: give the volume a size")
	}
	if err := size.Check(to); err != nil {
		return nil, err
	}
	if to < have {
		return nil, errs.New(errs.Invalid, "the image has %s (%d bytes), which do not fit into %s", size.Human(have), have, size.Human(to))
	}
	return &grown{src, to}, nil
}

type grown struct {
	api.Source
	size uint64
}

func (g *grown) Size() uint64 { return g.size }

// pad is n, or the next multiple of a sector.
func pad(n uint64) uint64 { return (n + size.Sector - 1) &^ (size.Sector - 1) }

var zeros [grain]byte

// isZero tells whether all of b is zero.
func isZero(b []byte) bool {
	for len(b) > grain {
		if !bytes.Equal(b[:grain], zeros[:]) {
			return false
		}
		b = b[grain:]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// pieces are the rest of a buffer that was read at off, without its zeros.
type pieces struct {
	off uint64
	buf []byte
}

// next cuts off the first run of grains that are not zero.
func (p *pieces) next() (api.Extent, bool) {
	from := 0
	for from < len(p.buf) && isZero(p.buf[from:min(from+grain, len(p.buf))]) {
		from += grain
	}
	if from >= len(p.buf) {
		p.buf = nil
		return api.Extent{}, false
	}
	to := from
	for to < len(p.buf) && !isZero(p.buf[to:min(to+grain, len(p.buf))]) {
		to = min(to+grain, len(p.buf))
	}
	e := api.Extent{Off: p.off + uint64(from), Data: p.buf[from:to]}
	p.off, p.buf = p.off+uint64(to), p.buf[to:]
	return e, true
}
