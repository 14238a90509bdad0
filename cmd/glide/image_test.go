package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/programs"
)

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(programs.Need(t, "qemu-img"), args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// sparse makes a raw image of 8 MiB with a little data.
func sparse(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100_000)
	_, _ = rand.Read(b)
	if _, err := f.WriteAt(b, 3<<20+512); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// onDisk is how many bytes a file takes up.
func onDisk(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestImportAndExport(t *testing.T) {
	f := newFake(t, api.Options{})
	dir := t.TempDir()
	raw, q, out := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2"), filepath.Join(dir, "out")
	sparse(t, raw)
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", "-c", raw, q)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}

	imported := decode[api.Import](t, f.must(t, "import", raw, "a", "--json"))
	if imported.Size != 8<<20 || imported.BytesRead > 1<<20 || imported.Unchanged {
		t.Errorf("%+v", imported)
	}
	if o := f.must(t, "import", q, "a"); o != "a holds this image already\n" {
		t.Error(o)
	}
	for name, c := range map[string][]string{"stdin, sized": {"--size", "8M"}, "stdin": nil} {
		cmd := glide(t, append([]string{"--api", f.addr, "import", "-", "a", "--json"}, c...)...)
		cmd.Stdin = bytes.NewReader(want) // a pipe
		if o := run(t, cmd); o.Code != 0 || !decode[api.Import](t, o.Out).Unchanged {
			t.Errorf("%s: %+v", name, o)
		}
	}
	f.must(t, "import", raw, "b", "--size", "1G")
	if v := decode[api.Volume](t, f.must(t, "show", "b", "--json")); v.Size != 1<<30 {
		t.Errorf("size %d", v.Size)
	}

	f.must(t, "export", "a", out)
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image came back changed (%v)", err)
	}
	if n := onDisk(t, out); n > 1<<20 {
		t.Errorf("it takes up %d bytes: holes should stay holes", n)
	}
	e := decode[exported](t, f.must(t, "export", "a", out, "--format", "qcow2", "--json"))
	if e.Format != "qcow2" || e.Size != 8<<20 || e.DataBytes == 0 {
		t.Errorf("%+v", e)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, out)
	streamed := f.must(t, "export", "a", "-", "--format", "qcow2")
	if err := os.WriteFile(out, []byte(streamed), 0o600); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, out)
	if o := f.try(t, "export", "a", "-"); o.Code != 0 || o.Out != string(want) {
		t.Errorf("to standard output: exit %d, %d bytes, %s", o.Code, len(o.Out), o.Err)
	}
	if o := f.try(t, "export", "a", "/dev/stdout"); o.Code != 0 || !strings.HasPrefix(o.Out, string(want)) {
		t.Errorf("to /dev/stdout: exit %d, %d bytes, %s", o.Code, len(o.Out), o.Err)
	}
}

func TestImportFails(t *testing.T) {
	f := newFake(t, api.Options{})
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	sparse(t, raw)
	backed := filepath.Join(dir, "backed")
	qemuImg(t, "create", "-f", "qcow2", "-b", raw, "-F", "raw", backed)
	refused(t, f.try(t, "import", backed, "x"), 1, "backing file")
	refused(t, f.try(t, "import", filepath.Join(dir, "missing"), "x"), 1, "missing")
	refused(t, f.try(t, "import", dir, "x"), 2, "directory")
	refused(t, f.try(t, "import", raw, "x", "--size", "1M"), 2, "do not fit")
	refused(t, run(t, glide(t, "import", raw, "x")), 1, "glide serve is not running")
	whole := filepath.Join(dir, "whole")
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, whole)
	if err := os.Truncate(whole, 400_000); err != nil {
		t.Fatal(err)
	}
	refused(t, f.try(t, "import", whole, "x"), 1, "truncated")
	cmd := glide(t, "--api", f.addr, "import", "-", "x", "--size", "1M")
	cmd.Stdin = bytes.NewReader(make([]byte, 2<<20))
	refused(t, run(t, cmd), 2, "announced")
	f.Fail("Import", errs.New(errs.NoSpace, "the disk is full"))
	refused(t, f.try(t, "import", raw, "x"), 1, "the disk is full")
	if list := decode[[]api.Volume](t, f.must(t, "ls", "--json")); len(list) != 0 {
		t.Errorf("failed imports left %+v", list)
	}
}

// TestExportFails: a file that was there stays as it was, and nothing is left.
func TestExportFails(t *testing.T) {
	f := newFake(t, api.Options{})
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out")
	sparse(t, raw)
	f.must(t, "import", raw, "a")
	if err := os.WriteFile(out, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Fail("ReadAt", errs.New(errs.Corrupt, "packs/00/00: slot 3 is damaged"))
	refused(t, f.try(t, "export", "a", out), 1, "slot 3")
	refused(t, f.try(t, "export", "a", out, "--format", "qcow2"), 1, "slot 3")
	refused(t, f.try(t, "export", "none", out), 1, "none")
	refused(t, f.try(t, "export", "a", dir), 2, "directory")
	refused(t, f.try(t, "export", "a", filepath.Join(dir, "none", "out")), 1, "none")
	if b, err := os.ReadFile(out); err != nil || string(b) != "precious" {
		t.Errorf("the old file: %q, %v", b, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*partial*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	f.Fail("ReadAt", nil)
	if err := os.Symlink(out, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	f.must(t, "export", "a", filepath.Join(dir, "link"))
	if st, err := os.Lstat(filepath.Join(dir, "link")); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 || st.Size() != 8<<20 {
		t.Errorf("%v %v", st, err)
	}
}

// TestInterrupt: an import that waits for its input ends at the first signal,
// and leaves nothing.
func TestInterrupt(t *testing.T) {
	f := newFake(t, api.Options{})
	for _, args := range [][]string{{"--size", "8M"}, nil} { // as it comes, and spooled
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := glide(t, append([]string{"--api", f.addr, "import", "-", "x"}, args...)...)
		cmd.Stdin = r
		done := make(chan outcome, 1)
		end := begin(t, cmd)
		go func() { done <- end() }()
		if _, err := w.Write(make([]byte, 1<<20)); err != nil { // more than a pipe holds: it is read
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		select {
		case o := <-done:
			refused(t, o, 1, "interrupted")
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		_ = w.Close()
		_ = r.Close()
	}
	if list := decode[[]api.Volume](t, f.must(t, "ls", "--json")); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
}
