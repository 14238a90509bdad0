package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/programs"
)

// qemuImg runs qemu-img, which the tests rely on as the reference.
func qemuImg(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(programs.Need(t, "qemu-img"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pattern writes a raw image with data and holes at awkward places.
func pattern(t testing.TB, path string, length int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	rng := rand.New(rand.NewPCG(1, uint64(length)))
	put := func(off, n int64, compressible bool) {
		n = min(n, length-off)
		if n <= 0 || off < 0 {
			return
		}
		b := make([]byte, n)
		for i := range b {
			if compressible {
				b[i] = byte(i / 7)
			} else {
				b[i] = byte(rng.Uint32())
			}
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 70_000, true)
	put(200_000, 1, false)
	put(1<<20-3, 9, false)
	put(2<<20, 3<<20, false)
	put(6<<20+4096, 300_000, true)
	put(length-4097, 4097, true)
	if err := f.Truncate(length); err != nil {
		t.Fatal(err)
	}
}

// content reads src to its end, checks its form, and returns the disk's hash
// and the number of bytes that were no holes.
func content(t testing.TB, src api.Source) (sum string, data uint64) {
	t.Helper()
	h := sha256.New()
	var pos uint64
	for {
		e, err := src.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Off < pos || len(e.Data) == 0 || len(e.Data)%512 != 0 || e.Off%512 != 0 || e.Off+uint64(len(e.Data)) > src.Size() {
			t.Fatalf("extent of %d bytes at %d after %d, of %d", len(e.Data), e.Off, pos, src.Size())
		}
		_ = writeZeros(h, e.Off-pos)
		h.Write(e.Data)
		pos = e.Off + uint64(len(e.Data))
		data += uint64(len(e.Data))
	}
	_ = writeZeros(h, src.Size()-pos)
	if _, err := src.Next(); err != io.EOF {
		t.Fatalf("after the end: %v", err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), data
}

func open(t testing.TB, path string, opts Options) *Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	img, err := Open(t.Context(), f, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	return img
}

func hashFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, make([]byte, pad(uint64(len(b)))-uint64(len(b)))...)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

const testLength = 9<<20 + 1536

func TestRaw(t *testing.T) {
	for _, length := range []int64{testLength, testLength - 700, 512, 1, 65536} {
		path := filepath.Join(t.TempDir(), "raw")
		pattern(t, path, length)
		img := open(t, path, Options{})
		if img.Report().Format != "raw" || img.Size() != pad(uint64(length)) {
			t.Fatalf("%+v, size %d", img.Report(), img.Size())
		}
		sum, data := content(t, img)
		if sum != hashFile(t, path) {
			t.Errorf("length %d: the content differs", length)
		}
		if length == testLength && data > 5<<20 {
			t.Errorf("%d bytes were read: holes should not be", data)
		}
	}
}

func TestSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	pattern(t, path, testLength)
	if img := open(t, path, Options{Size: 1 << 40}); img.Size() != 1<<40 {
		t.Errorf("size %d", img.Size())
	}
	for _, size := range []uint64{512, 1<<40 + 1, 1<<62 + 512} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), f, Options{Size: size}); !errors.Is(err, errs.Invalid) {
			t.Errorf("size %d: %v", size, err)
		}
		_ = f.Close()
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(empty)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, o := range []Options{{}, {Size: 1 << 20}, {Format: Raw}, {Format: Raw, Size: 1 << 20}} {
		if _, err := Open(t.Context(), f, o); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "empty") {
			t.Errorf("an empty image, %+v: %v", o, err)
		}
		if _, err := Open(t.Context(), pipe(t, empty), o); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "empty") {
			t.Errorf("an empty stream, %+v: %v", o, err)
		}
	}
}

func TestRawCutWhileRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	pattern(t, path, testLength)
	img := open(t, path, Options{})
	if _, err := img.Next(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 3<<20); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := img.Next()
		if err == nil {
			continue
		}
		if !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("error: %v", err)
		}
		return
	}
}

// pipe offers the file as a stream.
func pipe(t testing.TB, path string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	go func() {
		f, err := os.Open(path)
		if err == nil {
			_, _ = io.Copy(w, f)
			_ = f.Close()
		}
		_ = w.Close()
	}()
	return r
}

func TestStream(t *testing.T) {
	dir := t.TempDir()
	path, q := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	pattern(t, path, testLength-700)
	want := hashFile(t, path)
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", "-c", path, q)
	for name, c := range map[string]struct {
		path string
		opts Options
	}{
		"raw, size given": {path, Options{Size: pad(testLength - 700)}},
		"raw":             {path, Options{TempDir: dir}},
		"qcow2":           {q, Options{TempDir: dir}},
	} {
		img, err := Open(t.Context(), pipe(t, c.path), c.opts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sum, data := content(t, img)
		if sum != want {
			t.Errorf("%s: the content differs", name)
		}
		if data > 5<<20 {
			t.Errorf("%s: %d bytes were read: zeros should not be", name, data)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "glide-import-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	img, err := Open(t.Context(), pipe(t, path), Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = img.Next()
	}
	if !errors.Is(err, errs.Invalid) {
		t.Errorf("a stream that is longer than announced: %v", err)
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	pattern(t, raw, 4<<20)
	for _, format := range []string{"vmdk", "vhdx", "vdi", "qed", "qcow"} {
		path := filepath.Join(dir, format)
		qemuImg(t, "convert", "-f", "raw", "-O", format, raw, path)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), f, Options{})
		if !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "qemu-img convert") {
			t.Errorf("%s: %v", format, err)
		}
		if img, err := Open(t.Context(), f, Options{Format: Raw}); err != nil || img.Report().Format != "raw" {
			t.Errorf("%s, as raw bytes: %v", format, err)
		}
		_ = f.Close()
	}
	if f, err := os.Open(dir); err == nil {
		if _, err := Open(t.Context(), f, Options{}); !errors.Is(err, errs.Invalid) {
			t.Errorf("a directory: %v", err)
		}
		_ = f.Close()
	}
}

// failing is a source that fails after its first extent.
type failing struct{ n int }

func (f *failing) Size() uint64 { return 1 << 20 }

func (f *failing) Next() (api.Extent, error) {
	if f.n++; f.n > 1 {
		return api.Extent{}, errors.New("lost")
	}
	return api.Extent{Off: 4096, Data: bytes.Repeat([]byte{1}, 4096)}, nil
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for _, length := range []int64{testLength, 512, 64 << 10, 20 << 20} {
		path := filepath.Join(dir, "raw")
		pattern(t, path, length)
		want := hashFile(t, path)

		h := sha256.New()
		if err := WriteRaw(h, open(t, path, Options{})); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
			t.Errorf("length %d: WriteRaw's content differs", length)
		}

		for name, write := range map[string]func(*os.File) error{
			"copy":  func(f *os.File) error { return writeRawFile(f, open(t, path, Options{})) },
			"qcow2": func(f *os.File) error { return writeQcow2(f, open(t, path, Options{})) },
		} {
			out := filepath.Join(dir, name)
			f, err := os.Create(out)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(f); err != nil {
				t.Fatal(err)
			}
			if st, _ := f.Stat(); name == "qcow2" && st.Size() > 6<<20 {
				t.Errorf("length %d: the qcow2 image has %d bytes", length, st.Size())
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			args := []string{"compare", "-s", "-f", "raw", "-F", "raw", path, out}
			if name == "qcow2" {
				args = []string{"compare", "-f", "raw", "-F", "qcow2", path, out}
				if out := qemuImg(t, "check", out); !strings.Contains(out, "No errors") {
					t.Errorf("length %d: %s", length, out)
				}
			}
			qemuImg(t, args...)
			if sum, _ := content(t, open(t, out, Options{})); sum != want {
				t.Errorf("length %d, %s: the content differs when it is read again", length, name)
			}
		}
	}
}

func TestWriteFails(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := writeQcow2(f, &failing{}); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Fatalf("error: %v", err)
	}
	if _, err := Open(t.Context(), f, Options{Format: Qcow2}); err == nil {
		t.Error("half an image is one")
	}
	for _, w := range []func(api.Source) error{
		func(s api.Source) error { return WriteRaw(io.Discard, s) },
		func(s api.Source) error { return writeRawFile(f, s) },
	} {
		if err := w(&failing{}); err == nil || !strings.Contains(err.Error(), "lost") {
			t.Errorf("error: %v", err)
		}
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range []Format{Detect, Auto, Raw, Qcow2} {
		if got, err := ParseFormat(f.String()); err != nil || got != f {
			t.Errorf("%s: %v, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("vmdk"); !errors.Is(err, errs.Invalid) {
		t.Errorf("vmdk: %v", err)
	}
}
