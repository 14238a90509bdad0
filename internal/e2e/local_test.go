package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/programs"
)

// TestZeroRequestsWhileLocal: the S3 server's own access log is the witness.
func TestZeroRequestsWhileLocal(t *testing.T) {
	url, log := s3test.Start(t)
	d := newDaemon(t, url)
	d.start()
	before := lines(t, log)
	d.do("create", "v", "--size", "1G")
	c := d.dial("v")
	data := bytes.Repeat([]byte("local"), 100000)
	must(t, c.Write(data, 12345, 0))
	must(t, c.Flush())
	must(t, c.Close())
	d.do("fork", "v", "f", "-n", "3")
	d.do("sleep", "v")
	d.do("wake", "v")
	d.do("snapshot", "f-1", "s")
	d.do("ls")
	d.do("show", "f-2")
	got := make([]byte, len(data))
	c = d.dial("f-3")
	must(t, c.Read(got, 12345))
	must(t, c.Close())
	if !bytes.Equal(got, data) {
		t.Fatal("the fork does not hold its parent's data")
	}
	time.Sleep(2 * time.Second) // no timer makes a request either
	d.do("rm", "v", "f-1", "f-2", "f-3")
	if after := lines(t, log); len(after) != len(before) {
		t.Fatalf("the store was asked:\n%s", strings.Join(after[len(before):], "\n"))
	}
	// The witness is awake: a flush is seen.
	d.do("create", "w", "--size", "1M")
	d.do("flush", "w")
	if after := lines(t, log); len(after) == len(before) {
		t.Fatal("the access log does not see requests")
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func lines(tb testing.TB, path string) []string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		tb.Fatal(err)
	}
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
}

// TestForkOnAnotherHost: at most six requests and 64 KiB, whatever the size.
func TestForkOnAnotherHost(t *testing.T) {
	url, log := s3test.Start(t)
	a, b := newDaemon(t, url), newDaemon(t, url)
	a.start()
	b.start()
	a.do("create", "v", "--size", "1T")
	c := a.dial("v")
	data := bytes.Repeat([]byte("travels "), 50000)
	must(t, c.Write(data, 512<<30, 0))
	must(t, c.Close())
	for i := range 12 { // a history
		c := a.dial("v")
		must(t, c.Write([]byte{byte(i)}, uint64(i)<<30, 0))
		must(t, c.Close())
		a.do("flush", "v")
	}
	var before, after api.Stats
	b.json(&before, "stats")
	start := len(lines(t, log))
	var f api.Fork
	b.json(&f, "fork", "v", "w")
	b.json(&after, "stats")
	if n := len(lines(t, log)) - start; n > 6 {
		t.Errorf("%d requests:\n%s", n, strings.Join(lines(t, log)[start:], "\n"))
	}
	if n := after.BytesUp + after.BytesDown - before.BytesUp - before.BytesDown; n > 64<<10 {
		t.Errorf("%d bytes", n)
	}
	c = b.dial("w")
	got := make([]byte, len(data))
	must(t, c.Read(got, 512<<30))
	must(t, c.Close())
	if !bytes.Equal(got, data) {
		t.Fatal("the fork does not hold its parent's data")
	}
}

// TestDiscard: trim and zero over all of a 16 TiB volume within a second
// (zero-is-free).
func TestDiscard(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "huge", "--size", "16T")
	c := d.dial("huge")
	defer c.Close()
	must(t, c.Write(bytes.Repeat([]byte{1}, 1<<20), 7<<40, 0))
	const step = 1<<32 - 65536
	attempts(t, func() bool {
		began := time.Now()
		for off := uint64(0); off < 16<<40; off += step {
			n := uint32(min(step, 16<<40-off))
			must(t, c.Trim(off, n, 0))
			must(t, c.Zero(off, n, 0))
		}
		took := time.Since(began)
		t.Logf("16 TiB trimmed and zeroed in %v", took)
		return took <= time.Second
	})
	b := make([]byte, 4096)
	must(t, c.Read(b, 7<<40))
	if !bytes.Equal(b, make([]byte, 4096)) {
		t.Error("discarded bytes are not zeros")
	}
	began := time.Now()
	d.do("flush", "huge")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("flushing a discarded disk took %v", took)
	}
}

// TestMkfs makes a file system on an empty 1 TiB volume, through the kernel's FUSE.
func TestMkfs(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "big", "--size", "1T")
	uri := strings.TrimSpace(d.do("uri", "big"))
	dir := t.TempDir()
	file := filepath.Join(dir, "disk")
	must(t, os.WriteFile(file, nil, 0o600))
	fuse := exec.Command(programs.Need(t, "nbdfuse"), file, uri)
	must(t, fuse.Start())
	defer func() {
		_ = exec.Command("fusermount", "-u", file).Run()
		_ = exec.Command("umount", file).Run()
		_ = fuse.Wait()
	}()
	for i := 0; ; i++ {
		if st, err := os.Stat(file); err == nil && st.Size() == 1<<40 {
			break
		}
		if i > 500 {
			t.Fatal("nbdfuse did not come up")
		}
		time.Sleep(10 * time.Millisecond)
	}
	command(t, "mkfs.ext4", "-q", "-F", file)
	command(t, "e2fsck", "-fn", file)
}
