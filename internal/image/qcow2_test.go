package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/programs"
)

// TestQcow2Variants reads everything that qemu-img can write.
func TestQcow2Variants(t *testing.T) {
	dir := t.TempDir()
	for _, length := range []int64{testLength, 5 << 20, 1000448} {
		raw := filepath.Join(dir, "raw")
		pattern(t, raw, length)
		want := hashFile(t, raw)
		for _, args := range [][]string{
			{"-o", "compat=0.10"},
			{"-o", "compat=1.1"},
			{"-c", "-o", "compat=0.10"},
			{"-c"},
			{"-c", "-o", "compression_type=zstd"},
			{"-o", "compression_type=zstd"},
			{"-o", "cluster_size=512"},
			{"-c", "-o", "cluster_size=512"},
			{"-o", "cluster_size=2M"},
			{"-c", "-o", "cluster_size=2M,compression_type=zstd"},
			{"-c", "-o", "cluster_size=1024,compression_type=zstd"},
			{"-o", "preallocation=metadata"},
			{"-o", "preallocation=falloc"},
			{"-o", "preallocation=full"},
			{"-o", "lazy_refcounts=on"},
			{"-o", "refcount_bits=1"},
			{"-S", "0"},
		} {
			path := filepath.Join(dir, "qcow2")
			qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)...)
			img := open(t, path, Options{})
			if img.Report().Format != "qcow2" || img.Size() != pad(uint64(length)) {
				t.Errorf("%v: format %s, size %d", args, img.Report().Format, img.Size())
			}
			if sum, _ := content(t, img); sum != want {
				t.Errorf("%v, length %d: the content differs from qemu-img's", args, length)
			}
		}
	}
}

// qemuIO writes into an image as a guest would.
func qemuIO(t testing.TB, path string, cmds ...string) {
	t.Helper()
	bin := programs.Need(t, "qemu-io")
	var args []string
	for _, c := range cmds {
		args = append(args, "-c", c)
	}
	if out, err := exec.Command(bin, append(args, path)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
}

// TestQcow2Lived reads images that were written, zeroed, discarded and
// snapshotted in place.
func TestQcow2Lived(t *testing.T) {
	for _, compat := range []string{"0.10", "1.1"} {
		dir := t.TempDir()
		path, raw := filepath.Join(dir, "qcow2"), filepath.Join(dir, "raw")
		qemuImg(t, "create", "-f", "qcow2", "-o", "compat="+compat, path, "128M")
		qemuIO(t, path, "write -P 1 0 1M", "write -P 2 90M 3M", "write -P 3 12345 7")
		qemuImg(t, "snapshot", "-c", "before", path)
		qemuIO(t, path, "write -P 4 512k 1M", "write -z 64k 128k", "discard 91M 1M", "write -P 5 134217216 512", "write -z -u 92M 64k")
		qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", path, raw)
		img := open(t, path, Options{})
		sum, data := content(t, img)
		if sum != hashFile(t, raw) {
			t.Errorf("compat %s: the content differs from qemu-img's", compat)
		}
		if data > 8<<20 {
			t.Errorf("compat %s: %d bytes were read: holes should not be", compat, data)
		}
	}
}

func TestQcow2Large(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qcow2")
	qemuImg(t, "create", "-f", "qcow2", path, "16T")
	qemuIO(t, path, "write -P 7 12T 64k")
	img := open(t, path, Options{})
	e, err := img.Next()
	if err != nil || e.Off != 12<<40 || len(e.Data) != 64<<10 || e.Data[0] != 7 {
		t.Fatalf("extent at %d of %d bytes: %v", e.Off, len(e.Data), err)
	}
	if _, err := img.Next(); err != io.EOF {
		t.Fatal(err)
	}
}

func TestQcow2WriteLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qcow2")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	src := &extents{size: 8 << 50, list: []api.Extent{
		{Off: 0, Data: bytes.Repeat([]byte{1}, 4096)},
		{Off: 5<<50 + 4096, Data: bytes.Repeat([]byte{2}, 1<<20)},
		{Off: 8<<50 - 512, Data: bytes.Repeat([]byte{3}, 512)},
	}}
	if err := writeQcow2(f, src); err != nil {
		t.Fatal(err)
	}
	if out := qemuImg(t, "check", path); !strings.Contains(out, "No errors") {
		t.Error(out)
	}
	qemuIO(t, path, "read -P 1 0 4096", fmt.Sprintf("read -P 2 %d 1M", 5<<50+4096), fmt.Sprintf("read -P 3 %d 512", 8<<50-512), "read -P 0 1T 1M")
	if err := writeQcow2(f, &extents{size: 1 << 62}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("an image that is too large: %v", err)
	}
}

// extents is a source from a list.
type extents struct {
	size uint64
	list []api.Extent
}

func (x *extents) Size() uint64 { return x.size }

func (x *extents) Next() (api.Extent, error) {
	if len(x.list) == 0 {
		return api.Extent{}, io.EOF
	}
	e := x.list[0]
	x.list = x.list[1:]
	return e, nil
}

// TestQcow2Refused has what is not supported, by the tool that makes it.
func TestQcow2Refused(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	qemuImg(t, "create", "-f", "qcow2", base, "4M")
	for name, c := range map[string]struct {
		args  []string
		words string
	}{
		"backing":     {[]string{"-b", base, "-F", "qcow2"}, "backing file (" + base + ")"},
		"external":    {[]string{"-o", "data_file=" + filepath.Join(dir, "data")}, "external file"},
		"extended L2": {[]string{"-o", "extended_l2=on"}, "extended L2"},
		"encrypted":   {[]string{"--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"}, "encrypted"},
	} {
		path := filepath.Join(dir, "img")
		qemuImg(t, append(append([]string{"create", "-f", "qcow2"}, c.args...), path, "4M")...)
		mustRefuse(t, name, path, errs.Unsupported, c.words)
	}

	// qemu-img measures its own CPU time to make a LUKS image, and gives up
	// where the clock is too coarse, so the header of one that it made
	// (encrypt.format=luks, 4 MiB, cut after 512 bytes) is kept here.
	header, err := os.ReadFile("testdata/luks.qcow2-header")
	if err != nil {
		t.Fatal(err)
	}
	luks := filepath.Join(dir, "luks")
	if err := os.WriteFile(luks, append(header, make([]byte, 2<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, "LUKS", luks, errs.Unsupported, "encrypted")

	patched := func(name, words string, kind errs.Kind, off int64, b ...byte) {
		t.Helper()
		path := filepath.Join(dir, "img")
		qemuImg(t, "create", "-f", "qcow2", path, "4M")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		mustRefuse(t, name, path, kind, words)
	}
	patched("dirty", "dirty", errs.Unsupported, 79, 1)
	patched("corrupt", "corrupt", errs.Unsupported, 79, 2)
	patched("unknown feature", "0x20", errs.Unsupported, 79, 32)
	patched("version", "version 4", errs.Unsupported, 7, 4)
	patched("cluster bits", "2^30", errs.Corrupt, 23, 30)
	patched("size", "at most 2^62", errs.Unsupported, 24, 0x7f)
	patched("L1 too short", "L1 table has", errs.Corrupt, 26, 1)
	patched("L1 unaligned", "within a cluster", errs.Corrupt, 47, 1)
	patched("L1 outside", "truncated", errs.Corrupt, 42, 1)
}

func mustRefuse(t testing.TB, name, path string, kind errs.Kind, words string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	img, err := Open(t.Context(), f, Options{})
	for err == nil {
		_, err = img.Next()
	}
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v, want a %s with %q", name, err, kind, words)
	}
}

// TestQcow2Truncated cuts images at every length that is interesting: each is
// refused by name, or read as far as it can be and then refused.
func TestQcow2Truncated(t *testing.T) {
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	pattern(t, raw, 5<<20)
	for _, args := range [][]string{nil, {"-c"}, {"-c", "-o", "compression_type=zstd"}} {
		qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)...)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for cutAt := 0; cutAt < len(whole)-512; cutAt += 4093 {
			src, err := openQcow2(bytes.NewReader(whole[:cutAt]), int64(cutAt))
			for err == nil {
				_, err = src.Next()
			}
			if !errors.Is(err, errs.Corrupt) {
				t.Fatalf("%v cut at %d of %d: %v", args, cutAt, len(whole), err)
			}
			if !strings.Contains(err.Error(), "truncated") && !strings.Contains(err.Error(), "ends early") {
				t.Fatalf("%v cut at %d of %d: %v", args, cutAt, len(whole), err)
			}
		}
	}
}

// FuzzQcow2 feeds damaged images: never a panic, an extent outside the disk, or
// an extent out of order.
func FuzzQcow2(f *testing.F) {
	dir := f.TempDir()
	raw := filepath.Join(dir, "raw")
	pattern(f, raw, 6_000)
	for _, args := range [][]string{
		{"-o", "cluster_size=512"},
		{"-c", "-o", "cluster_size=1024"},
		{"-c", "-o", "cluster_size=1024,compression_type=zstd"},
		{"-o", "cluster_size=512,compat=0.10"},
	} {
		path := filepath.Join(dir, "qcow2")
		qemuImg(f, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)...)
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Its buffers are of a few MiB; tables and packed clusters lie in the file.
		fuzztest.Bound(t, len(b), 16<<20, 64, func() { readQcow2(t, b) })
	})
}

// readQcow2 reads the beginning of an image.
func readQcow2(t *testing.T, b []byte) {
	src, err := openQcow2(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	var pos uint64
	for range 200 { // a small image may describe a large disk
		e, err := src.Next()
		if err != nil {
			return
		}
		if e.Off < pos || e.Off+uint64(len(e.Data)) > src.Size() || len(e.Data) == 0 {
			t.Fatalf("extent of %d bytes at %d after %d, of %d", len(e.Data), e.Off, pos, src.Size())
		}
		pos = e.Off + uint64(len(e.Data))
	}
}
