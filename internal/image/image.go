// Package image reads disk images, raw and qcow2, as streams of extents in
// which holes stay holes, and writes such streams as images.
//
// An image whose length is not a multiple of 512 bytes is padded with zeros.
// What is read comes from anywhere: nothing in it is trusted. A qcow2 image is
// checked for everything that reading it relies on; what is not understood is
// refused, and never read as something else.
package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/problem"
	"github.com/paraglide/glide/internal/size"
)

// Format is how an image is laid out.
type Format uint8

// The formats. Auto finds out from the first bytes; a raw image may look like
// one of another format, if its guest wants it to, and then has to be named.
const (
	Auto Format = iota
	Raw
	Qcow2
)

var formatNames = []string{Auto: "auto", Raw: "raw", Qcow2: "qcow2"}

// String is the format's name in flags.
func (f Format) String() string { return formatNames[f] }

// ParseFormat is the inverse of String; another name is a problem.Invalid.
func ParseFormat(name string) (Format, error) {
	if i := slices.Index(formatNames, name); i >= 0 {
		return Format(i), nil
	}
	return 0, problem.New(problem.Invalid, "the image format %.60q is not known: there are raw and qcow2", name)
}

// Options say how an image is to be read. The zero value has the defaults.
type Options struct {
	Format Format // Auto
	// Size, if not 0, is the size to present, in bytes: a larger one than the
	// image's grows it by zeros, a smaller one is refused.
	Size uint64
	// TempDir is where a stream is spooled that cannot be read in order;
	// os.TempDir by default.
	TempDir string
}

// Image is an opened image; it implements api.Source.
type Image struct {
	api.Source
	format Format
	spool  *os.File
}

// Format is the image's format, Raw or Qcow2.
func (i *Image) Format() Format { return i.format }

// Close removes what was spooled. The file that Open got is its opener's.
func (i *Image) Close() error {
	if i.spool == nil {
		return nil
	}
	return i.spool.Close()
}

const (
	// chunk is how much is read at once, in bytes: a few blocks, so that calls
	// and frames cost nothing, and little memory.
	chunk = 1 << 20
	// grain is the length of zeros, in bytes, from which they become a hole.
	grain = 64 << 10
	// magicLen is how many bytes Auto looks at.
	magicLen = 68
)

// Open opens the image in f: a file, a block device, or a stream such as a pipe.
// A raw stream is read as it comes if opts has its size; otherwise, and for
// qcow2, it is spooled to a temporary file first, holes left out.
func Open(f *os.File, opts Options) (*Image, error) {
	length, ok, err := extentOf(f)
	if err != nil {
		return nil, err
	}
	if ok {
		return openFile(f, length, opts)
	}
	head := make([]byte, magicLen)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	r := io.MultiReader(bytes.NewReader(head[:n]), f)
	format, err := detect(head[:n], opts.Format)
	if err != nil {
		return nil, err
	}
	if format == Raw && opts.Size > 0 {
		if err := size.Check(opts.Size); err != nil {
			return nil, err
		}
		return &Image{Source: newStream(r, opts.Size), format: Raw}, nil
	}
	spool, length, err := spoolTo(opts.TempDir, r)
	if err != nil {
		return nil, err
	}
	img, err := openFile(spool, length, opts)
	if err != nil {
		return nil, errors.Join(err, spool.Close())
	}
	img.spool = spool
	return img, nil
}

// extentOf is the length of what can be read at any place; ok is false for a stream.
func extentOf(f *os.File) (length int64, ok bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("read the image: %w", err)
	}
	if st.IsDir() {
		return 0, false, problem.New(problem.Invalid, "%s is a directory, not an image", f.Name())
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

func openFile(f *os.File, length int64, opts Options) (*Image, error) {
	head := make([]byte, min(magicLen, length))
	if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	format, err := detect(head, opts.Format)
	if err != nil {
		return nil, err
	}
	var src api.Source
	if format == Qcow2 {
		src, err = OpenQcow2(f, length)
	} else {
		src, err = newRaw(f, length)
	}
	if err != nil {
		return nil, err
	}
	if src, err = resize(src, opts.Size); err != nil {
		return nil, err
	}
	return &Image{Source: src, format: format}, nil
}

// foreign are formats that nobody means to import as the bytes of a disk.
var foreign = []struct {
	name  string
	at    int
	magic string
}{
	{"a VMDK", 0, "KDMV"},
	{"a VMDK", 0, "# Disk DescriptorFile"},
	{"a VHDX", 0, "vhdxfile"},
	{"a VHD", 0, "conectix"},
	{"a VDI", 64, "\x7f\x10\xda\xbe"},
	{"a QED", 0, "QED\x00"},
	{"a qcow (version 1)", 0, "QFI\xfb\x00\x00\x00\x01"},
}

// detect is the format of the image with the first bytes given.
func detect(head []byte, want Format) (Format, error) {
	if want != Auto {
		return want, nil
	}
	for _, f := range foreign {
		if len(head) >= f.at+len(f.magic) && string(head[f.at:f.at+len(f.magic)]) == f.magic {
			return 0, problem.New(problem.Unsupported, "the image is %s: convert it first with `qemu-img convert -O qcow2` (or name its format if these are the raw bytes of a disk)", f.name)
		}
	}
	if len(head) >= 4 && binary.BigEndian.Uint32(head) == qcow2Magic {
		return Qcow2, nil
	}
	return Raw, nil
}

// resize presents src with another size.
func resize(src api.Source, to uint64) (api.Source, error) {
	have := src.Size()
	if to == 0 {
		to = have
	}
	if have == 0 && to == 0 {
		return nil, problem.New(problem.Invalid, "the image is empty: give the volume a size")
	}
	if err := size.Check(to); err != nil {
		return nil, err
	}
	if to < have {
		return nil, problem.New(problem.Invalid, "the image has %s (%d bytes), which do not fit into %s", size.Human(have), have, size.Human(to))
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

// pieces are what is left of a buffer that was read at off, without its zeros.
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
