package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// noise is n random bytes that begin with magic.
func noise(n int, magic string) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(b)
	copy(b, magic)
	return b
}

func write(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGuestsHeaders: what a guest wrote at the beginning of its disk makes no
// difference to what comes back from an export and an import, and nobody is left
// in the dark about it.
func TestGuestsHeaders(t *testing.T) {
	f := newFake(t, api.Options{})
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	sparse(t, raw)
	nested := filepath.Join(dir, "nested")
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, nested)
	for name, b := range map[string][]byte{
		"qcow2": append(read(t, nested), make([]byte, 1<<20)...),
		"vmdk":  noise(1<<20, "KDMV\x01\x00\x00\x00"),
		"xz":    noise(1<<20, "\xfd7zXZ\x00"),
		"tar":   noise(1<<20, strings.Repeat("a", 257)+"ustar"),
		"text":  bytes.Repeat([]byte("root:x:0:0:root:\n"), 512*8),
	} {
		path, out := write(t, filepath.Join(dir, name), b), filepath.Join(dir, name+".out")
		if o := f.try(t, "import", path, "v-"+name); o.Code == 0 && name != "qcow2" {
			t.Errorf("%s: taken for raw without a word", name)
		} else if o.Code == 0 {
			f.must(t, "rm", "v-"+name)
		}
		f.must(t, "import", path, "v-"+name, "--format", "raw")
		o := f.try(t, "export", "v-"+name, out, "--json")
		e := decode[exported](t, o.Out)
		if o.Code != 0 || e.Format != "raw" || e.LooksLike == "" || !e.Marked || !strings.Contains(o.Err, "--format raw") {
			t.Errorf("%s: %+v, %+v", name, o, e)
		}
		im := decode[imported](t, f.must(t, "import", out, "v-"+name, "--json"))
		if !im.Unchanged || !im.Marked || im.Format != "raw" {
			t.Errorf("%s: %+v", name, im)
		}
		streamed := f.try(t, "export", "v-"+name, "-")
		if streamed.Code != 0 || streamed.Out != string(b) || !strings.Contains(streamed.Err, "--format raw") {
			t.Errorf("%s, to standard output: exit %d, %d bytes, %s", name, streamed.Code, len(streamed.Out), streamed.Err)
		}
		wrapped := filepath.Join(dir, name+".qcow2")
		if o := f.try(t, "export", "v-"+name, wrapped, "--format", "qcow2"); o.Code != 0 || o.Err != "" {
			t.Errorf("%s, wrapped: %+v", name, o)
		}
		if im := decode[imported](t, f.must(t, "import", wrapped, "v-"+name, "--json")); !im.Unchanged || im.Format != "qcow2" {
			t.Errorf("%s, wrapped: %+v", name, im)
		}
	}
	f.must(t, "import", raw, "plain")
	if o := f.try(t, "export", "plain", filepath.Join(dir, "plain"), "--json"); o.Err != "" || strings.Contains(o.Out, "looks_like") {
		t.Errorf("a plain disk: %+v", o)
	}
}

// TestImportExpected: what did not arrive as it should makes no volume.
func TestImportExpected(t *testing.T) {
	f := newFake(t, api.Options{})
	b := noise(300_100, "")
	path := write(t, filepath.Join(t.TempDir(), "raw"), b)
	sum := sha256.Sum256(b)
	good, bad := hex.EncodeToString(sum[:]), strings.Repeat("ab", 32)
	fromPipe := func(args ...string) outcome {
		cmd := glide(t, append([]string{"--api", f.addr, "import", "-", "x"}, args...)...)
		cmd.Stdin = bytes.NewReader(b)
		return run(t, cmd)
	}
	store := []string{"--store", "file://" + t.TempDir()}
	for _, more := range [][]string{nil, {"--size", "1M"}, store, append(store, "--size", "1M")} {
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"--sha256", bad}, "expected SHA-256 " + bad + ", got " + good},
			{[]string{"--expect-size", "300101"}, "expected 300101 bytes, got 300100"},
			{[]string{"--expect-size", "300K"}, "expected 307200 bytes, got 300100"},
		} {
			refused(t, f.try(t, append(append([]string{"import", path, "x"}, c.args...), more...)...), 1, c.want)
			refused(t, fromPipe(append(c.args, more...)...), 1, c.want)
		}
	}
	refused(t, fromPipe("--expect-size", "300099"), 1, "expected 300099 bytes, got more")
	refused(t, fromPipe("--sha256", "12"), 2, "64 hexadecimal digits")
	refused(t, fromPipe("--expect-size", "0"), 2, "zero")
	refused(t, fromPipe("--expect-size", "many"), 2, "size")
	if list := decode[[]api.Volume](t, f.must(t, "ls", "--json")); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
	o := f.try(t, "import", path, "x", "--sha256", good, "--expect-size", "300100", "--json")
	if im := decode[imported](t, o.Out); im.BytesRead != 300_100 || im.InputBytes != 300_100 || im.PaddingBytes != 300_544-300_100 || im.Size != 300_544 {
		t.Errorf("%+v", im)
	}
	f.must(t, "rm", "x")
	if o := fromPipe("--sha256", good, "--expect-size", "300100"); o.Code != 0 || !strings.Contains(o.Out, "300100 bytes read") || !strings.Contains(o.Out, "444 bytes of zeros") {
		t.Errorf("%+v", o)
	}
	f.must(t, append([]string{"import", path, "x", "--sha256", good}, store...)...)
}

// TestImportConverts: only when it is asked to, and it says so.
func TestImportConverts(t *testing.T) {
	f := newFake(t, api.Options{})
	dir := t.TempDir()
	raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "vdi")
	sparse(t, raw)
	qemuImg(t, "convert", "-f", "raw", "-O", "vdi", raw, image)
	refused(t, f.try(t, "import", image, "a"), 1, "--format auto")
	if o := f.must(t, "import", image, "a", "--format", "auto"); !strings.Contains(o, "qemu-img converted it from vdi") {
		t.Error(o)
	}
	if im := decode[imported](t, f.must(t, "import", image, "a", "--format", "auto", "--json")); !im.Unchanged || !im.Converted || im.Format != "vdi" {
		t.Errorf("%+v", im)
	}
	if o := f.must(t, "import", raw, "a"); o != "a holds this image already\n" {
		t.Error(o)
	}
	cmd := glide(t, "--api", f.addr, "import", "-", "b")
	cmd.Stdin = bytes.NewReader(nil)
	refused(t, run(t, cmd), 1, "empty")
}
