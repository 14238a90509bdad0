package api

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
)

// list is a source from a list; it fails with err in the end, if that is set.
type list struct {
	size    uint64
	extents []Extent
	err     error
}

func (l *list) Size() uint64 { return l.size }

func (l *list) Next() (Extent, error) {
	if len(l.extents) > 0 {
		e := l.extents[0]
		l.extents = l.extents[1:]
		return e, nil
	}
	if l.err != nil {
		return Extent{}, l.err
	}
	return Extent{}, io.EOF
}

func sample() *list {
	return &list{size: 64 << 20, extents: []Extent{
		{Off: 0, Data: []byte("begin")},
		{Off: 1 << 20, Data: bytes.Repeat([]byte{7}, maxFrame+9)},
		{Off: 64<<20 - 3, Data: []byte("end")},
	}}
}

func encoded(t testing.TB, src Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteImage(&b, src); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll puts an image together; memory is bounded by what was sent.
func readAll(src Source) (extents int, bytes uint64, err error) {
	for {
		e, err := src.Next()
		if err == io.EOF {
			if _, again := src.Next(); again != io.EOF {
				return extents, bytes, errors.New("not at the end after the end")
			}
			return extents, bytes, nil
		}
		if err != nil {
			return extents, bytes, err
		}
		extents++
		bytes += uint64(len(e.Data))
	}
}

func TestStreamGolden(t *testing.T) {
	got := hex.EncodeToString(encoded(t, &list{size: 1024, extents: []Extent{{Off: 512, Data: []byte("abc")}}}))
	want := "0002000000000000" + "03000000" + "616263" + // a frame
		"0004000000000000" + "00000000" + "b5542706" // the end
	if got != want {
		t.Errorf("the stream is\n%s, want\n%s", got, want)
	}
}

func TestStream(t *testing.T) {
	b := encoded(t, sample())
	n, bytes_, err := readAll(ReadImage(bytes.NewReader(b), 64<<20))
	if err != nil || n != 4 || bytes_ != 5+maxFrame+9+3 {
		t.Errorf("%d extents, %d bytes, %v", n, bytes_, err)
	}
	if n, _, err := readAll(ReadImage(bytes.NewReader(encoded(t, &list{size: 512})), 512)); n != 0 || err != nil {
		t.Errorf("an empty image: %d extents, %v", n, err)
	}
}

// TestStreamTruncated: no prefix of a stream is an image, nor is one with a flipped bit.
func TestStreamTruncated(t *testing.T) {
	small := &list{size: 4096, extents: []Extent{{Off: 0, Data: []byte("begin")}, {Off: 1024, Data: []byte("middle")}}}
	b := encoded(t, small)
	for n := range b {
		_, _, err := readAll(ReadImage(bytes.NewReader(b[:n]), 4096))
		if !errors.Is(err, errs.Corrupt) || strings.HasSuffix(err.Error(), "EOF") {
			t.Errorf("cut at %d of %d: %v", n, len(b), err)
		}
	}
	for bit := range len(b) * 8 {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		if _, _, err := readAll(ReadImage(bytes.NewReader(c), 4096)); !errors.Is(err, errs.Corrupt) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
	}
	if _, _, err := readAll(ReadImage(bytes.NewReader(b), 8192)); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another size: %v", err)
	}
}

func TestStreamAbort(t *testing.T) {
	var b bytes.Buffer
	cause := errs.New(errs.Unavailable, "the store does not answer")
	if err := WriteImage(&b, &list{size: 512, err: cause}); err != cause {
		t.Errorf("WriteImage: %v", err)
	}
	_, _, err := readAll(ReadImage(&b, 512))
	if !errors.Is(err, errs.Unavailable) || err.Error() != cause.Error() {
		t.Errorf("the receiver got: %v", err)
	}
}

func FuzzStream(f *testing.F) {
	f.Add(encoded(f, &list{size: 4096, extents: []Extent{{Off: 0, Data: []byte("begin")}}}), uint64(4096))
	f.Add(encoded(f, &list{size: 4096, extents: []Extent{{Off: 512, Data: make([]byte, 2000)}}}), uint64(4096))
	f.Fuzz(func(t *testing.T, b []byte, size uint64) {
		src := ReadImage(bytes.NewReader(b), size)
		// A frame may be announced with 4 MiB, and there is one buffer for all.
		fuzztest.Bound(t, len(b), 2*maxFrame, 16, func() {
			var pos uint64
			for {
				e, err := src.Next()
				if err != nil {
					return
				}
				if e.Off < pos || len(e.Data) == 0 || e.Off+uint64(len(e.Data)) > size {
					t.Fatalf("extent of %d bytes at %d after %d, of %d", len(e.Data), e.Off, pos, size)
				}
				pos = e.Off + uint64(len(e.Data))
			}
		})
	})
}
