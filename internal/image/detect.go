package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode"
	"unicode/utf8"

	"github.com/paraglide/glide/internal/errs"
)

const (
	// headLen is how many of an image's first bytes are checked: they include the
	// marks of file systems.
	headLen = 64 << 10
	// tailLen is how many of its last bytes are checked: the footer of a VHD or a DMG.
	tailLen = 512
	// textLen is how many bytes (or all, if fewer) must be text in a text file.
	textLen = 4 << 10
)

// sample is the part of an image that is checked.
type sample struct {
	head   []byte // its first headLen bytes, or all
	tail   []byte // its last tailLen bytes, or all; nil while they have not arrived
	length int64  // -1 while it is not known
}

// kind says how to handle an image.
type kind uint8

const (
	isRaw     kind = iota
	isQcow2        // read here
	isDisk         // qemu-img reads it, with the driver tool
	isPacked       // tool unpacks it to standard output
	isArchive      // tool takes files out of it
	isForeign      // an image that only other programs read, tool if it is known
	isNoDisk       // something else altogether
)

// finding is the detected type of an image. The zero value is a raw image.
type finding struct {
	kind kind
	name string // with its article
	tool string
}

// find detects the type of an image from its first and last bytes. A guest may have
// written anything to its disk. So only marks count that do not occur at these places
// by chance; an image without any is raw.
func (s *sample) find() finding {
	raw := looksRaw(s.head)
	for i := range headMarks {
		if m := &headMarks[i]; !(m.weak && raw) && m.matches(s.head) {
			return m.finding
		}
	}
	for i := range tailMarks {
		if m := &tailMarks[i]; len(s.tail) >= m.back && bytes.HasPrefix(s.tail[len(s.tail)-m.back:], []byte(m.magic)) {
			return m.finding
		}
	}
	if raw {
		return finding{}
	}
	return s.text()
}

// refusal is the error for an image that cannot be taken as it is.
func (f finding) refusal() error {
	const raw = "; if these are the bytes of a disk, give --format raw"
	advice := ""
	switch f.kind {
	case isDisk:
		advice = fmt.Sprintf("convert it first, `qemu-img convert -f %s -O qcow2 FILE disk.qcow2`, or give --format auto, which does so", f.tool)
	case isPacked:
		advice = fmt.Sprintf("unpack it on the way, `%s FILE | glide import - NAME`", f.tool)
	case isArchive:
		advice = fmt.Sprintf("take the disk out of it first, `%s FILE`", f.tool)
	case isForeign:
		if advice = "make it raw or qcow2 with the program that it is from"; f.tool != "" {
			advice = fmt.Sprintf("make it raw or qcow2 first, `%s`", f.tool)
		}
	default:
		advice = "this is no image of a disk: look at what was downloaded, or named"
	}
	return errs.New(errs.Unsupported, "the image is %s: %s%s", f.name, advice, raw)
}

// cutShort is an error if a raw image ends before its own partitions do, as after an
// interrupted download.
func (s *sample) cutShort() error {
	for _, sector := range []uint64{512, 4096} {
		if uint64(len(s.head)) < 2*sector || s.length < 0 {
			continue
		}
		b := s.head[sector : 2*sector]
		n := binary.LittleEndian.Uint32(b[12:])
		if !bytes.HasPrefix(b, []byte("EFI PART")) || n < 92 || uint64(n) > sector {
			continue
		}
		h := bytes.Clone(b[:n])
		clear(h[16:20])
		last := binary.LittleEndian.Uint64(b[48:])
		if crc32.ChecksumIEEE(h) != binary.LittleEndian.Uint32(b[16:]) || last >= 1<<51 {
			continue
		}
		if need := (last + 1) * sector; need > uint64(s.length) {
			return errs.New(errs.Corrupt, "the image is cut short: its partition table describes %d bytes, and it has %d: get all of it; or give --format raw to take it as it is", need, s.length)
		}
	}
	return nil
}

// looksRaw tells whether head has the marks of a partition table or a file system. Then
// weak marks of other formats do not count.
func looksRaw(head []byte) bool {
	has := func(at int, magic string) bool {
		return len(head) >= at+len(magic) && string(head[at:at+len(magic)]) == magic
	}
	return has(512, "EFI PART") || has(4096, "EFI PART") || // GPT
		has(32769, "CD001") || // ISO 9660
		has(1080, "\x53\xef") && has(1024+76, "\x01\x00\x00\x00") || // ext2 to ext4, revision 1
		hasPartitions(head)
}

// hasPartitions tells whether head begins with an MBR that has partitions.
func hasPartitions(head []byte) bool {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	used := false
	for e := head[446:510]; len(e) > 0; e = e[16:] {
		if e[0]&0x7f != 0 { // neither active nor not
			return false
		}
		used = used || e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) != 0
	}
	return used
}

// text finds a text file, such as the page that a server sent instead of the image.
func (s *sample) text() finding {
	b := s.head[:min(textLen, len(s.head))]
	whole := len(b) == len(s.head)
	if len(b) == 0 || !isText(b, whole) {
		return finding{}
	}
	start := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), " \t\r\n"))
	for _, t := range textMarks {
		if bytes.HasPrefix(start, []byte(t.prefix)) {
			return t.finding
		}
	}
	// A disk may be full of letters. Text with lines, or shorter than a sector, is a
	// text file.
	if bytes.ContainsAny(b, "\r\n") || s.length >= 0 && s.length < 512 {
		return finding{isNoDisk, "a text file", ""}
	}
	return finding{}
}

// isText tells whether b is UTF-8 text. If b is only a part, its last character may be
// cut off.
func isText(b []byte, whole bool) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n <= 1:
			return !whole && len(b) < utf8.UTFMax && !utf8.FullRune(b)
		case r != '\t' && r != '\n' && r != '\r' && r != '\f' && r != '\ufeff' && !unicode.IsPrint(r) && !unicode.IsSpace(r):
			return false
		}
		b = b[n:]
	}
	return true
}

// sampleOf reads the sample of the image in the first length bytes of r.
func sampleOf(r io.ReaderAt, length int64) (*sample, error) {
	s := &sample{head: make([]byte, min(headLen, length)), tail: make([]byte, min(tailLen, length)), length: length}
	for _, part := range []struct {
		b   []byte
		off int64
	}{{s.head, 0}, {s.tail, length - int64(len(s.tail))}} {
		if n, err := r.ReadAt(part.b, part.off); n < len(part.b) {
			return nil, fmt.Errorf("read the image at byte %d: %w", part.off+int64(n), err)
		}
	}
	return s, nil
}
