package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
)

// write makes a file of b.
func write(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// drain reads an image to its end.
func drain(img *Image, err error) error {
	if err != nil {
		return err
	}
	for {
		if _, err := img.Next(); err != nil {
			if cerr := img.Close(); cerr != nil {
				return cerr
			}
			return err
		}
	}
}

// TestExpected: what does not have the length or the hash that is expected never
// ends well, however it comes.
func TestExpected(t *testing.T) {
	for name, b := range map[string][]byte{"raw": noise(3<<20 + 100), "small": noise(700), "qcow2": qemuImage(t, "qcow2", "-c")} {
		path, n := write(t, b), uint64(len(b))
		sum := sha256.Sum256(b)
		good := hex.EncodeToString(sum[:])
		bad := "00" + good[2:]
		for want, list := range map[string][]Options{
			"": {{SHA256: good}, {SHA256: strings.ToUpper(good)}, {Length: n}, {Length: n, SHA256: good, Size: 8 << 20}, {Format: Raw, SHA256: good}},
			"SHA-256 " + bad: {
				{SHA256: bad}, {SHA256: bad, Size: 8 << 20}, {SHA256: bad, Length: n}, {SHA256: bad, Format: Raw}, {SHA256: bad, Format: Auto},
			},
			"got": {{Length: n + 1}, {Length: n - 1}, {Length: n - 1, Size: 8 << 20}, {Length: n + 1, Size: 8 << 20}, {Length: 2 * n, Format: Raw}},
		} {
			for _, o := range list {
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				for how, from := range map[string]*os.File{"file": f, "stream": pipe(t, path)} {
					err := drain(Open(t.Context(), from, o))
					if want == "" && err != io.EOF || want != "" && (!errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), want)) {
						t.Errorf("%s, %s, %+v: %v, want %q", name, how, o, err, want)
					}
				}
				_ = f.Close()
			}
		}
	}
	for _, s := range []string{"", "12", strings.Repeat("g", 64), strings.Repeat("a", 66)} {
		if _, err := ParseSHA256(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestChangedAfterItsHash: what was checked is what is imported.
func TestChangedAfterItsHash(t *testing.T) {
	b := noise(3 << 20)
	sum := sha256.Sum256(b)
	path := write(t, b)
	img := open(t, path, Options{SHA256: hex.EncodeToString(sum[:])})
	if _, err := img.Next(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b[1:], 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := drain(img, nil); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "changed") {
		t.Errorf("error: %v", err)
	}
}

// TestReport: what was read is counted, and what fills the last sector is not.
func TestReport(t *testing.T) {
	path := write(t, noise(70_001))
	for how, img := range map[string]*Image{
		"file":            open(t, path, Options{}),
		"stream":          must(Open(t.Context(), pipe(t, path), Options{})),
		"sized":           must(Open(t.Context(), pipe(t, path), Options{Size: 1 << 20})),
		"length expected": must(Open(t.Context(), pipe(t, path), Options{Length: 70_001})),
	} {
		if err := drain(img, nil); err != io.EOF {
			t.Fatal(err)
		}
		if r := img.Report(); r != (Report{Format: "raw", Length: 70_001, Read: 70_001, Padding: 70_144 - 70_001}) {
			t.Errorf("%s: %+v", how, r)
		}
	}
	sparse := filepath.Join(t.TempDir(), "sparse")
	pattern(t, sparse, testLength-700)
	img := open(t, sparse, Options{})
	_ = drain(img, nil)
	if r := img.Report(); r.Length != testLength-700 || r.Read == 0 || r.Read > 5<<20 {
		t.Errorf("a sparse file: %+v", r)
	}
	q := qemuImage(t, "qcow2")
	img = open(t, write(t, q), Options{})
	if r := img.Report(); r.Format != "qcow2" || r.Read != uint64(len(q)) || r.Padding != 0 {
		t.Errorf("qcow2: %+v", r)
	}
}

func must(img *Image, err error) *Image {
	if err != nil {
		panic(err)
	}
	return img
}

// TestMark: an export whose guest wrote the beginning, or the end, of another
// format comes back as it was, as long as nothing has changed it.
func TestMark(t *testing.T) {
	for name, b := range map[string][]byte{
		"qcow2": append(qemuImage(t, "qcow2"), make([]byte, 1<<20)...),
		"vmdk":  append(qemuImage(t, "vmdk"), make([]byte, 1<<20)...),
		"xz":    at(1<<20, map[int]string{0: "\xfd7zXZ\x00"}),
		"tar":   append(tarred("a", 0), make([]byte, 512)...),
		"vhd":   at(1<<20, map[int]string{1<<20 - 512: "conectix"}),
		"text":  []byte(strings.Repeat("a line of text\n\n", 4096)),
		"short": gpt(1 << 30),
	} {
		b = b[:len(b)&^511]
		from := write(t, b)
		src := Watch(open(t, from, Options{Format: Raw}))
		path := filepath.Join(t.TempDir(), "export")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeRawFile(f, src); err != nil {
			t.Fatal(err)
		}
		if src.Guise() == "" {
			t.Errorf("%s: it has no guise", name)
		}
		if err := src.MarkRaw(f); err != nil {
			t.Fatalf("the tests need a file system with extended attributes in TMPDIR: %v", err)
		}
		_ = f.Close()
		img := open(t, path, Options{})
		if sum, _ := content(t, img); sum != hashFile(t, from) || !img.Report().Marked {
			t.Errorf("%s: %+v", name, img.Report())
		}
		for what, change := range map[string]func(f *os.File) error{
			"longer":    func(f *os.File) error { return f.Truncate(int64(len(b)) + 512) },
			"beginning": func(f *os.File) error { _, err := f.WriteAt([]byte{1}, 3000); return err },
			"end":       func(f *os.File) error { _, err := f.WriteAt([]byte{1}, int64(len(b))-1); return err },
			"no mark":   func(f *os.File) error { return unix.Fremovexattr(int(f.Fd()), markName) },
		} {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(f); err != nil {
				t.Fatal(err)
			}
			s, err := sampleOf(f, int64(len(b)))
			if err != nil || what != "longer" && isMarked(f, s) {
				t.Errorf("%s, %s: the mark counts still (%v)", name, what, err)
			}
			if img, err := Open(t.Context(), f, Options{}); err == nil && img.Report().Marked {
				t.Errorf("%s, %s: the mark counts still", name, what)
			}
			if _, err := f.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(int64(len(b))); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	}
	plain := Watch(open(t, write(t, mbr()), Options{}))
	if err := WriteRaw(io.Discard, plain); err != nil || plain.Guise() != "" {
		t.Errorf("a plain disk looks like %s (%v)", plain.Guise(), err)
	}
}

// TestConvert: qemu-img converts on the way what it reads, if that is wanted.
func TestConvert(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	pattern(t, raw, 4<<20)
	want := hashFile(t, raw)
	for name, args := range map[string][]string{
		"vmdk": {"vmdk"}, "vmdk, streamed": {"vmdk", "-o", "subformat=streamOptimized"}, "vhdx": {"vhdx"}, "vdi": {"vdi"}, "qed": {"qed"},
		"parallels": {"parallels"}, "qcow": {"qcow"}, "vhd": {"vpc", "-o", "force_size"}, "vhd, fixed": {"vpc", "-o", "subformat=fixed,force_size"},
	} {
		b := qemuImage(t, args...)
		path := write(t, b)
		for how, img := range map[string]*Image{
			"file":          open(t, path, Options{Format: Auto, TempDir: dir}),
			"stream":        must(Open(t.Context(), pipe(t, path), Options{Format: Auto, TempDir: dir})),
			"stream, sized": must(Open(t.Context(), pipe(t, path), Options{Format: Auto, TempDir: dir, Size: 4 << 20, Length: uint64(len(b))})),
		} {
			sum, _ := content(t, img)
			if r := img.Report(); sum != want || !r.Converted || r.Format != args[0] || r.Length != uint64(len(b)) {
				t.Errorf("%s, %s: same %v, %+v", name, how, sum == want, r)
			}
			if err := img.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "glide-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	broken := qemuImage(t, "vdi")
	clear(broken[100:400])
	if err := drain(Open(t.Context(), file(t, write(t, broken)), Options{Format: Auto})); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "VDI") {
		t.Errorf("a damaged image: %v", err)
	}
	t.Setenv("PATH", dir)
	if err := drain(Open(t.Context(), file(t, write(t, qemuImage2(t))), Options{Format: Auto})); !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "qemu-utils") {
		t.Errorf("without qemu-img: %v", err)
	}
}

// qemuImage2 is an image of a format of QEMU's, made without its programs.
func qemuImage2(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 1<<20)
	copy(b, "QED\x00")
	return b
}

func file(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestConvertFollowsNothing: an image that names another file of this machine, in
// whatever way, is refused before qemu-img sees it, and so is one that is only a
// part of a disk.
func TestConvertFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	pattern(t, secret, 1<<20)
	base := func(format string) string {
		path := filepath.Join(dir, "base."+format)
		qemuImg(t, "convert", "-f", "raw", "-O", format, secret, path)
		return path
	}
	made := func(format string, args ...string) []byte {
		path := filepath.Join(dir, "made")
		qemuImg(t, append(append([]string{"create", "-f", format}, args...), path, "1M")...)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	patched := func(b []byte, at int, with ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	whole := qemuImage(t, "vmdk")
	streamed := qemuImage(t, "vmdk", "-o", "subformat=streamOptimized")
	foot := len(streamed) - 2*vmdkHeader
	names := bytes.Clone(whole)
	binary.LittleEndian.PutUint64(names[vmdkCapacity:], 0)
	copy(names[512:], "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \""+secret+"\" 0\n\x00")
	for name, b := range map[string][]byte{
		"descriptor":                []byte("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"" + secret + "\" 0\n"),
		"vmdk without data":         names,
		"vmdk with a parent":        made("vmdk", "-b", base("vmdk"), "-F", "vmdk"),
		"vmdk, a part":              patched(whole, vmdkDescriptor, make([]byte, 16)...),
		"vmdk, the last header":     patched(patched(streamed, vmdkDirectory, bytes.Repeat([]byte{0xff}, 8)...), foot, make([]byte, vmdkHeader)...),
		"vhd, a difference":         patched(qemuImage(t, "vpc"), 60, 0, 0, 0, 4),
		"vhd, fixed, a difference":  differing(qemuImage(t, "vpc", "-o", "subformat=fixed")),
		"qed with a backing file":   made("qed", "-b", secret, "-F", "raw"),
		"qcow1 with a backing file": made("qcow", "-b", secret, "-F", "raw"),
		"qcow2 with a backing file": made("qcow2", "-b", secret, "-F", "raw"),
		"qcow2 with a data file":    made("qcow2", "-o", "data_file="+filepath.Join(dir, "data")),
	} {
		err := drain(Open(t.Context(), file(t, write(t, b)), Options{Format: Auto}))
		if !errors.Is(err, errs.Unsupported) || strings.Contains(err.Error(), "qemu-img cannot") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// differing makes the footer of a fixed VHD that of a differencing one.
func differing(b []byte) []byte {
	b[len(b)-512+63] = 4
	return b
}

// TestNoRoom: a full temporary directory is named, with what is free and what is needed.
func TestNoRoom(t *testing.T) {
	err := spoolError(&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}, t.TempDir(), 5<<20, 0)
	for _, want := range []string{"TMPDIR", "free", "more than 5 MiB"} {
		if !errors.Is(err, errs.NoSpace) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if err := spoolError(unix.EDQUOT, "", 5<<20, 1<<30); !errors.Is(err, errs.NoSpace) || !strings.Contains(err.Error(), "1 GiB") {
		t.Error(err)
	}
	if _, _, err := spoolTo("/proc/none", bytes.NewReader(noise(10)), 0); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("no directory: %v", err)
	}
}
