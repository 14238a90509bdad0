package image

import (
	"encoding/binary"
	"io"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

var be = binary.BigEndian

// The qcow2 format, as far as Glide reads and writes it. All integers are
// big-endian.
const (
	qcow2Magic   = 0x514649fb // "QFI\xfb"
	headerV2     = 72         // bytes
	headerV3     = 104
	minCluster   = 9  // bits, as QEMU has them
	maxCluster   = 21 // bits
	maxL1        = 32 << 20 / 8
	maxBackingFn = 1023

	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4

	compressionZlib = 0
	compressionZstd = 1

	flagCopied     = 1 << 63
	flagCompressed = 1 << 62
	flagZero       = 1 << 0
	offsetMask     = 0x00fffffffffffe00
	// Bits that must be zero in an entry of the L1 table, and in an uncompressed entry
	// of an L2 table (flagZero is allowed in version 3).
	reservedL1 = ^uint64(flagCopied | offsetMask)
	reservedL2 = ^uint64(flagCopied | flagCompressed | offsetMask)
)

// header holds the fields of a qcow2 header that reading needs.
type header struct {
	version     uint32
	clusterBits uint
	size        uint64 // of the disk, bytes
	l1Len       uint32
	l1Off       uint64
	compression byte
}

func (h *header) cluster() uint64 { return 1 << h.clusterBits }

// l2Bits is the binary logarithm of the number of entries of an L2 table.
func (h *header) l2Bits() uint { return h.clusterBits - 3 }

// l1Need is how many entries of the L1 table the disk's size needs.
func (h *header) l1Need() uint64 {
	return (h.size + 1<<(h.clusterBits+h.l2Bits()) - 1) >> (h.clusterBits + h.l2Bits())
}

func refuse(format string, args ...any) error {
	return errs.New(errs.Unsupported, "the qcow2 image "+format, args...)
}

func damaged(format string, args ...any) error {
	return errs.New(errs.Corrupt, "the qcow2 image is damaged: "+format, args...)
}

// cut is the error for an image whose file ends too early.
func cut(what string, end uint64, length int64) error {
	return errs.New(errs.Corrupt, "the qcow2 image is truncated: %s ends at byte %d, the file at byte %d", what, end, length)
}

// inFile checks that a range lies within the file.
func inFile(what string, off, n uint64, length int64) error {
	if off > uint64(length) || n > uint64(length)-off {
		return cut(what, off+n, length)
	}
	return nil
}

// readHeader reads and checks the header of the image in the first length bytes of r.
func readHeader(r io.ReaderAt, length int64) (header, error) {
	b := make([]byte, 112)
	n, err := r.ReadAt(b[:min(int64(len(b)), length)], 0)
	if err != nil && err != io.EOF {
		return header{}, readError(err, 0)
	}
	if n < headerV2 {
		return header{}, cut("its header", headerV2, int64(n))
	}
	h := header{
		version: be.Uint32(b[4:]), size: be.Uint64(b[24:]),
		l1Len: be.Uint32(b[36:]), l1Off: be.Uint64(b[40:]),
	}
	if be.Uint32(b) != qcow2Magic {
		return h, errs.New(errs.Corrupt, "the image is not a qcow2 image: it does not begin with QFI")
	}
	if h.version != 2 && h.version != 3 {
		return h, refuse("has version %d: 2 and 3 are supported", h.version)
	}
	if bits := be.Uint32(b[20:]); bits < minCluster || bits > maxCluster {
		return h, damaged("its clusters have 2^%d bytes", bits)
	}
	h.clusterBits = uint(be.Uint32(b[20:]))
	if off := be.Uint64(b[8:]); off != 0 {
		return h, refuse("has a backing file%s: flatten it with `qemu-img convert`", backing(r, length, off, be.Uint32(b[16:])))
	}
	if be.Uint32(b[32:]) != 0 {
		return h, refuse("is encrypted: decrypt it with `qemu-img convert`")
	}
	if h.version == 3 {
		if err := h.readV3(b[:n]); err != nil {
			return h, err
		}
	}
	return h, h.checkTables(length)
}

func (h *header) readV3(b []byte) error {
	if len(b) < headerV3 {
		return cut("its header", headerV3, int64(len(b)))
	}
	if n := be.Uint32(b[100:]); n < headerV3 || uint64(n) > h.cluster() {
		return damaged("its header has %d bytes", n)
	}
	features := be.Uint64(b[72:])
	switch {
	case features&incompatDirty != 0:
		return refuse("was not closed properly (dirty): repair it with `qemu-img check -r all`")
	case features&incompatCorrupt != 0:
		return refuse("is marked as corrupt: repair it with `qemu-img check -r all`")
	case features&incompatDataFile != 0:
		return refuse("keeps its data in an external file: flatten it with `qemu-img convert`")
	case features&incompatExtendedL2 != 0:
		return refuse("has extended L2 entries: convert it with `qemu-img convert -O qcow2`")
	case features&^incompatCompression != 0:
		return refuse("needs features that are not known here (%#x): convert it with `qemu-img convert -O qcow2`", features&^incompatCompression)
	}
	if features&incompatCompression == 0 {
		return nil
	}
	if be.Uint32(b[100:]) <= headerV3 || len(b) <= headerV3 {
		return damaged("its header lacks the kind of compression")
	}
	if h.compression = b[headerV3]; h.compression != compressionZstd {
		return refuse("is compressed in a way that is not known here (%d): zlib and zstd are supported", h.compression)
	}
	return nil
}

func (h *header) checkTables(length int64) error {
	if h.size > size.Max {
		return refuse("is of a disk of %d bytes: at most 2^62 are supported", h.size)
	}
	if h.l1Len > maxL1 {
		return damaged("its L1 table has %d entries", h.l1Len)
	}
	if need := h.l1Need(); need > uint64(h.l1Len) {
		return damaged("its L1 table has %d entries, a disk of %d bytes needs %d", h.l1Len, h.size, need)
	}
	if h.l1Off&(h.cluster()-1) != 0 {
		return damaged("its L1 table lies at byte %d, within a cluster", h.l1Off)
	}
	return inFile("its L1 table", h.l1Off, 8*uint64(h.l1Len), length)
}

// backing is the name of the backing file for a message, if it can be read.
func backing(r io.ReaderAt, length int64, off uint64, n uint32) string {
	if n == 0 || n > maxBackingFn || inFile("", off, uint64(n), length) != nil {
		return ""
	}
	name := make([]byte, n)
	if _, err := r.ReadAt(name, int64(off)); err != nil {
		return ""
	}
	return " (" + printable(name) + ")"
}

// printable makes a name from an image safe for a line of text.
func printable(name []byte) string {
	for i, c := range name {
		if c < ' ' || c > '~' {
			name[i] = '?'
		}
	}
	return string(name)
}
