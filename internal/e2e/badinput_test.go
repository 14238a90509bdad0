package e2e

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// refused wants an exit code, and one line on standard error that says why.
func refused(t *testing.T, r result, code int, contains string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.Err), "\n")
	if r.Code != code || len(lines) != 1 || !strings.Contains(r.Err, contains) || strings.Contains(r.Err, "goroutine") {
		t.Errorf("exit %d (want %d), stderr %q (want one line with %q)", r.Code, code, r.Err, contains)
	}
}

func TestBadNamesAndSizes(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	for _, name := range []string{"-x", ".x", "a b", "a/b/c", "", strings.Repeat("x", 101), "a@b", "ü"} {
		r := d.try("create", "--size", "1G", "--", name)
		if r.Code == 0 || r.Code > 2 {
			t.Errorf("name %q: exit %d", name, r.Code)
		}
	}
	for _, size := range []string{"0", "-1", "1000", "511", "5E", "4611686018427388416", "x", ""} {
		refused(t, d.try("create", "v", "--size="+size), 2, "")
	}
	refused(t, d.try("create", "v", "--size", "1G", "--block-size", "3000"), 2, "power of two")
	refused(t, d.try("create", "v", "--size", "1G", "--durability", "paranoid"), 2, "local, continuous or sync")
	d.do("create", "v", "--size", "4611686018427387904", "--block-size", "1M")
	refused(t, d.try("create", "v", "--size", "1G"), 1, "already")
	refused(t, d.try("resize", "v", "1G"), 1, "shrink")
	refused(t, d.try("show", "nothing"), 1, "nothing")
	refused(t, d.try("frobnicate"), 2, "frobnicate")
	refused(t, d.try("scrub", "--store-only", "--local-only"), 2, "--store-only")
	if out := d.do("ls", "--json"); !strings.HasPrefix(strings.TrimSpace(out), "[") {
		t.Errorf("ls --json: %s", out)
	}
}

func TestSecondDaemonAndLongSocket(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	r := run(t, "", "serve", "--data", d.data, "--nbd", "unix:"+d.sock+"/n2", "--api", "unix:"+d.sock+"/a2")
	refused(t, r, 1, "in use")
	r = run(t, "", "serve", "--data", t.TempDir(), "--nbd", "unix:/tmp/"+strings.Repeat("x", 120), "--api", "unix:"+d.sock+"/a3")
	if r.Code == 0 || !strings.Contains(r.Err, "107") {
		t.Errorf("exit %d, %q", r.Code, r.Err)
	}
}

// TestOneStoreTwoInstallations: two platforms that are given one bucket and one prefix by
// mistake are kept apart, whichever way the second comes; under different prefixes neither
// touches the other.
func TestOneStoreTwoInstallations(t *testing.T) {
	url, _ := s3test.Start(t)
	at := func(prefix, name string) string {
		u := strings.Replace(url, "?", "/"+prefix+"?", 1)
		if name != "" {
			u += "&installation=" + name
		}
		return u
	}
	prod := newDaemon(t, at("p", "prod"))
	prod.start()
	prod.do("create", "v", "--size", "1M", "--durability", "sync")
	prod.write("v", pattern(1<<20, 1), 0)
	for _, name := range []string{"staging", ""} {
		other := at("p", name)
		refused(t, run(t, "", newDaemon(t, other).args()...), 2, `belongs to the installation "prod"`)
		refused(t, run(t, "", "gc", "--grace", "0s", "--store", other), 2, `belongs to the installation "prod"`)
		image := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(image, pattern(1<<20, 2), 0o600))
		refused(t, run(t, "", "import", image, "other", "--store", other), 2, `belongs to the installation "prod"`)
	}
	near := newDaemon(t, at("q", "staging"))
	near.start()
	near.do("create", "v", "--size", "1M", "--durability", "sync")
	near.write("v", pattern(1<<20, 3), 0)
	for _, d := range []*daemon{prod, near} {
		for range 3 {
			r := run(t, "", "gc", "--grace", "0s", "--retention", "0s", "--store", d.store, "--json")
			if r.Code != 0 || !strings.Contains(r.Out, `"foreign_objects": 0`) {
				t.Errorf("gc: %+v", r)
			}
		}
		d.do("verify", "v", "--cold")
	}
	second := newDaemon(t, at("p", "prod"))
	second.start()
	second.do("fork", "v", "kid")
	second.holds("kid", pattern(1<<20, 1), 0)
	refused(t, run(t, "", "gc", "--retention", "1h"), 2, "--store")
}

func TestNewerDataDirectory(t *testing.T) {
	d := newDaemon(t, "")
	must(t, os.WriteFile(filepath.Join(d.data, "host.json"), []byte(`{"version":9,"id":"x"}`), 0o600))
	r := run(t, "", d.args()...)
	refused(t, r, 1, "newer glide")
}

func TestBadImages(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	dir := t.TempDir()
	qcow := filepath.Join(dir, "i.qcow2")
	raw := filepath.Join(dir, "i.raw")
	must(t, os.WriteFile(raw, bytes.Repeat([]byte("image"), 1<<18), 0o600))
	img := func(args ...string) {
		command(t, append([]string{"qemu-img"}, args...)...)
	}
	img("convert", "-O", "qcow2", raw, qcow)
	b, err := os.ReadFile(qcow)
	must(t, err)
	cut := filepath.Join(dir, "cut.qcow2")
	must(t, os.WriteFile(cut, b[:len(b)/2], 0o600))
	refused(t, d.try("import", cut, "cut"), 1, "")
	backed := filepath.Join(dir, "backed.qcow2")
	img("create", "-f", "qcow2", "-b", raw, "-F", "raw", backed)
	refused(t, d.try("import", backed, "backed"), 1, "backing")
	refused(t, d.try("import", filepath.Join(dir, "missing"), "m"), 1, "missing")
	if out := d.do("ls", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("a failed import left %s", out)
	}
	d.do("import", qcow, "good")
	out := filepath.Join(dir, "out.raw")
	d.do("export", "good", out)
	got, err := os.ReadFile(out)
	must(t, err)
	want, err := os.ReadFile(raw)
	must(t, err)
	if !bytes.Equal(got[:len(want)], want) {
		t.Error("the image came back changed")
	}
}

// TestFullDisk: on a real small file system writers are slowed, then get
// ENOSPC; nothing acknowledged is lost, and it goes on when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel() // it waits
	mnt, _ := mountDisk(t, 256<<20, "mkfs.ext4", "-q", "-F")
	d := newDaemon(t, "file:///nonexistent-store-of-glide-tests")
	d.store = "file://" + t.TempDir()
	d.data = filepath.Join(mnt, "data")
	must(t, os.Mkdir(d.data, 0o700))
	d.start()
	t.Cleanup(d.kill)
	d.do("create", "v", "--size", "1G")
	// The store takes nothing, so that the log cannot shrink.
	storeDir := strings.TrimPrefix(d.store, "file://")
	must(t, os.Rename(storeDir, storeDir+".gone"))
	c := d.dial("v")
	h := make([]byte, 1<<20)
	written := 0
	var err error
	for ; written < 1<<10; written++ {
		for i := 0; i < len(h); i += page {
			fillPage(h[i:], written+1)
		}
		if err = c.Write(h, uint64(written)<<20, 0); err != nil {
			break
		}
	}
	var ne *nbdclient.Error
	if !errors.As(err, &ne) || ne.Errno != nbd.ENOSPC {
		t.Fatalf("after %d MiB: %v, want ENOSPC", written, err)
	}
	if written < 32 {
		t.Errorf("only %d MiB fitted on a disk of 256", written)
	}
	must(t, c.Flush())
	d.kill()
	must(t, os.Rename(storeDir+".gone", storeDir))
	d.start()
	c = d.dial("v")
	for i := range written {
		must(t, c.Read(h, uint64(i)<<20))
		if pageOf(h) != i+1 || pageOf(h[len(h)-page:]) != i+1 {
			t.Fatalf("MiB %d is wrong after the restart", i)
		}
	}
	// With the store back there is room again.
	d.do("flush", "v")
	for i := 0; i < len(h); i += page {
		fillPage(h[i:], 9999)
	}
	must(t, c.Write(h, 900<<20, 0))
	must(t, c.Flush())
	t.Logf("%d MiB were written before the disk was full", written)
}
