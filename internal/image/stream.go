package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

// arrival is an image that arrives in order. It counts the bytes, hashes them if asked
// to, and keeps the beginning and the end.
type arrival struct {
	r    io.Reader
	opts Options
	sample
	first []byte // of head: not handed out yet
	got   int64
	sum   hash.Hash // nil if nobody wants it
}

// newArrival reads the beginning of an image. If the image is not longer, its sample is
// then complete.
func newArrival(r io.Reader, opts Options) (*arrival, error) {
	a := &arrival{r: r, opts: opts, sample: sample{head: make([]byte, headLen), length: -1}}
	if opts.SHA256 != "" {
		a.sum = sha256.New()
	}
	n := 0
	for n < headLen {
		m, err := a.take(a.head[n:])
		if n += m; err == io.EOF {
			a.length = int64(n)
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if n == 0 {
		return nil, errEmpty
	}
	a.head = a.head[:n]
	a.first = a.head
	return a, nil
}

// Read implements io.Reader.
func (a *arrival) Read(p []byte) (int, error) {
	if len(a.first) > 0 {
		n := copy(p, a.first)
		a.first = a.first[n:]
		return n, nil
	}
	return a.take(p)
}

// take reads new bytes.
func (a *arrival) take(p []byte) (int, error) {
	n, err := a.r.Read(p)
	b := p[:n]
	if a.sum != nil {
		_, _ = a.sum.Write(b)
	}
	b = b[max(0, n-tailLen):]
	a.tail = append(a.tail, b...)
	if over := len(a.tail) - tailLen; over > 0 {
		a.tail = a.tail[:copy(a.tail, a.tail[over:])]
	}
	if a.got += int64(n); a.opts.Length > 0 && uint64(a.got) > a.opts.Length {
		return 0, wrongLength(a.opts.Length, "more")
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read the image at byte %d: %w", a.got, err)
	}
	return n, err
}

// finish checks the complete image.
func (a *arrival) finish() error {
	a.length = a.got
	if a.opts.Length > 0 && uint64(a.got) != a.opts.Length {
		return wrongLength(a.opts.Length, fmt.Sprintf("%d", a.got))
	}
	if a.sum == nil {
		return nil
	}
	return checkSum(a.sum, a.opts.SHA256)
}

func wrongLength(want uint64, got string) error {
	return errs.New(errs.Corrupt, "the image does not have the expected length: expected %d bytes, got %s", want, got)
}

func checkSum(h hash.Hash, want string) error {
	if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, want) {
		return errs.New(errs.Corrupt, "the image does not have the expected content: expected SHA-256 %s, got %s", strings.ToLower(want), got)
	}
	return nil
}

// checkFile checks a file against the length and hash in opts.
func checkFile(f *os.File, length int64, opts Options) error {
	if opts.Length > 0 && uint64(length) != opts.Length {
		return wrongLength(opts.Length, fmt.Sprintf("%d", length))
	}
	if opts.SHA256 == "" {
		return nil
	}
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(f, 0, length)); err != nil {
		return fmt.Errorf("read the image at byte %d: %w", n, err)
	}
	return checkSum(h, opts.SHA256)
}

// checked is a source from a file that was already read once, to check it.
type checked struct {
	api.Source
	f   *os.File
	was os.FileInfo
}

// steady makes src, which reads f, fail if f is changed from now on.
func steady(src api.Source, f *os.File) (api.Source, error) {
	was, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	return &checked{src, f, was}, nil
}

// Next implements api.Source.
func (c *checked) Next() (api.Extent, error) {
	e, err := c.Source.Next()
	if err != io.EOF {
		return e, err
	}
	now, serr := c.f.Stat()
	if serr != nil {
		return e, fmt.Errorf("read the image: %w", serr)
	}
	if now.Size() != c.was.Size() || !now.ModTime().Equal(c.was.ModTime()) {
		return e, errs.New(errs.Corrupt, "the image was changed while it was read, after its SHA-256 was checked: import it again")
	}
	return e, io.EOF
}

// ParseSHA256 parses a SHA-256 in hexadecimal.
func ParseSHA256(s string) (string, error) {
	if b, err := hex.DecodeString(s); err != nil || len(b) != sha256.Size {
		return "", errs.New(errs.Invalid, "%.80q is not a SHA-256, which has 64 hexadecimal digits", s)
	}
	return strings.ToLower(s), nil
}

// stream is a raw image that arrives in order, with a size known in advance.
type stream struct {
	r    *arrival
	size uint64
	pos  uint64
	done bool
	buf  []byte
	left pieces
}

func newStream(r *arrival, size uint64) *stream {
	return &stream{r: r, size: size, buf: make([]byte, chunk)}
}

func (s *stream) Size() uint64 { return s.size }

// Next implements api.Source.
func (s *stream) Next() (api.Extent, error) {
	for {
		if e, ok := s.left.next(); ok {
			return e, nil
		}
		if s.done {
			return api.Extent{}, s.end()
		}
		n, err := io.ReadFull(s.r, s.buf)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			s.done = true
		} else if err != nil {
			return api.Extent{}, err
		}
		if s.pos+uint64(n) > s.size {
			return api.Extent{}, errs.New(errs.Invalid, "the image has more than the %d bytes that were announced: give a larger size, or none", s.size)
		}
		padded := int(pad(uint64(n)))
		clear(s.buf[n:padded])
		s.left = pieces{s.pos, s.buf[:padded]}
		s.pos += uint64(n)
	}
}

// end returns io.EOF if the end of the image, known only now, does not belong to
// another format.
func (s *stream) end() error {
	if err := s.r.finish(); err != nil {
		return err
	}
	what, err := s.r.decide(s.r.opts.Format)
	if err == nil && what.kind != isRaw {
		err = what.refusal()
	}
	if err != nil {
		return err
	}
	return io.EOF
}

// tempFile creates an unnamed file in dir, which disappears when it is closed.
func tempFile(dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, fmt.Errorf("make a temporary file (TMPDIR says where): %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("make a temporary file: %w", err), f.Close())
	}
	return f, nil
}

// spoolTo copies a stream to an unnamed file. need is the stream's length in bytes, 0
// if unknown.
func spoolTo(dir string, r io.Reader, need uint64) (*os.File, int64, error) {
	f, err := tempFile(dir, "glide-import-")
	if err != nil {
		return nil, 0, err
	}
	length, err := copySparse(f, r)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Truncate(0) // so that what is free is told without it
		return nil, 0, errors.Join(spoolError(err, dir, uint64(length), need), f.Close())
	}
	return f, length, nil
}

// copySparse writes r to f without its zeros, and returns how many bytes it copied.
func copySparse(f *os.File, r io.Reader) (length int64, err error) {
	buf := make([]byte, chunk)
	for {
		n, rerr := io.ReadFull(r, buf)
		left := pieces{uint64(length), buf[:n]}
		length += int64(n)
		for e, ok := left.next(); ok; e, ok = left.next() {
			if _, err := f.WriteAt(e.Data, int64(e.Off)); err != nil {
				return length, fmt.Errorf("spool the image: %w", err)
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			if err := f.Truncate(length); err != nil {
				return length, fmt.Errorf("spool the image: %w", err)
			}
			return length, nil
		}
		if rerr != nil {
			return length, rerr
		}
	}
}

// spoolError is the error of a write to a temporary file: it says how many bytes were
// written, and how many are needed, if known.
func spoolError(err error, dir string, come, need uint64) error {
	needs := size.Human(need)
	if need == 0 {
		needs = "more than " + size.Human(come)
	}
	return noRoom(err, dir, needs, elsewhere)
}

// fullDisk tells whether err means that there is no room.
func fullDisk(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// elsewhere says what to do about a full temporary directory.
const elsewhere = "set TMPDIR to a directory with more"

// noRoomInTemp is noRoom for a temporary file in os.TempDir.
func noRoomInTemp(err error, needs string) error { return noRoom(err, "", needs, elsewhere) }

// noRoom adds advice to an err that means that there is no room for an image in dir
// ("" is os.TempDir): how much is free there, how much is needed (needs, in words), and
// what to do.
func noRoom(err error, dir, needs, advice string) error {
	if !fullDisk(err) {
		return err
	}
	if dir == "" {
		dir = os.TempDir()
	}
	return errs.New(errs.NoSpace, "no room for the image in %s, which has %s free; it needs %s: %s: %w", dir, free(dir), needs, advice, err)
}

// free says how much an ordinary user may still write below dir.
func free(dir string) string {
	n, err := freeBytes(dir)
	if err != nil {
		return "an unknown amount"
	}
	return size.Human(n)
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
