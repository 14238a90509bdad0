package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/programs"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// pattern is n bytes without repetition, another for each seed.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// write writes to an export and flushes it, over a connection of its own.
func (d *daemon) write(export string, data []byte, off uint64) {
	d.tb.Helper()
	c := d.dial(export)
	must(d.tb, c.Write(data, off, 0))
	must(d.tb, c.Flush())
	must(d.tb, c.Close())
}

// holds checks what an export has at an offset.
func (d *daemon) holds(export string, want []byte, off uint64) {
	d.tb.Helper()
	c := d.dial(export)
	defer c.Close()
	got := make([]byte, len(want))
	must(d.tb, c.Read(got, off))
	if !bytes.Equal(got, want) {
		d.tb.Fatalf("%s has other bytes at %d than were written", export, off)
	}
}

// isEIO wants an NBD request to have failed with EIO.
func isEIO(t *testing.T, err error) {
	t.Helper()
	var ne *nbdclient.Error
	if !errors.As(err, &ne) || ne.Errno != nbd.EIO {
		t.Errorf("the answer is %v, want EIO", err)
	}
}

// goesOnLocally does what needs no store, with v, which is published, and with
// l, which is not.
func goesOnLocally(t *testing.T, d *daemon, data []byte) {
	t.Helper()
	d.holds("v", data, 0)
	d.write("v", []byte("written meanwhile"), 4<<20)
	d.write("l", data, 0)
	d.holds("l", data, 0)
	d.do("create", "n", "--size", "1M")
	d.do("rm", "n")
	d.do("fork", "l", "lf")
	d.holds("lf", data, 0)
	d.do("rm", "lf")
	d.do("snapshot", "l", "s")
	d.do("rollback", "l", "s")
	d.do("rm", "l@s")
	d.do("sleep", "l")
	d.do("wake", "l")
	d.do("resize", "l", "65M")
	d.do("df")
	d.do("ls")
}

// needStore are verbs that write to the store, on the host that has v and l.
var needStore = [][]string{
	{"flush", "v"}, {"flush", "l"}, {"sleep", "v", "--portable"}, {"rm", "v"}, {"rename", "v", "x"},
}

// storeIsAway has every verb of needStore refused within some seconds, with one
// line, and the volumes as they were.
func storeIsAway(t *testing.T, d *daemon, says string) {
	t.Helper()
	for _, verb := range needStore {
		began := time.Now()
		refused(t, d.try(verb...), 1, says)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("glide %s took %v to fail", strings.Join(verb, " "), took)
		}
	}
	if r := run(t, strings.Repeat("image", 1000), "--api", d.api(), "import", "-", "imported", "--size", "1M"); r.Code != 1 {
		t.Errorf("import: exit %d", r.Code)
	} else {
		refused(t, r, 1, says)
	}
	if r := d.try("doctor"); r.Code != 1 || !strings.Contains(r.Out+r.Err, says) {
		t.Errorf("doctor: exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	var l []api.Volume
	d.json(&l, "ls")
	if len(l) != 2 || l[0].State != "active" || l[1].State != "active" {
		t.Errorf("the volumes are now %+v", l)
	}
}

// storeIsBack: everything goes on, and is in the store in the end.
func storeIsBack(t *testing.T, d, other *daemon, data []byte) {
	t.Helper()
	d.do("flush", "v")
	d.do("flush", "l")
	other.do("fork", "v", "back")
	other.holds("back", []byte("written meanwhile"), 4<<20)
	other.holds("back", data, 0)
	d.do("rename", "l", "m")
	d.do("sleep", "v", "--portable")
	other.do("wake", "v")
	other.holds("v", data, 0)
	d.do("rm", "m")
	if r := d.try("doctor"); r.Code != 0 {
		t.Errorf("doctor: exit %d\n%s", r.Code, r.Out)
	}
}

// twoHosts are two daemons of one store; the first has v, published, and l, not;
// the second has a fork of v that it has read nothing of.
func twoHosts(t *testing.T, a, b *daemon) (data []byte) {
	t.Helper()
	data = pattern(1<<20, 1)
	a.start()
	b.start()
	a.do("create", "v", "--size", "64M")
	a.do("create", "l", "--size", "64M")
	a.write("v", data, 0)
	a.do("flush", "v")
	b.do("fork", "v", "w")
	return data
}

// TestReadOnlyStore: a store on a file system that becomes read-only. What only
// reads it goes on, also across hosts.
func TestReadOnlyStore(t *testing.T) {
	mnt := t.TempDir()
	programs.NeedRoot(t)
	command(t, "mount", "-t", "tmpfs", "tmpfs", mnt)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", mnt).Run() })
	url := "file://" + filepath.Join(mnt, "store")
	a, b := newDaemon(t, url), newDaemon(t, url)
	data := twoHosts(t, a, b)
	command(t, "mount", "-o", "remount,ro", mnt)
	says := "cannot be written; remount it"
	goesOnLocally(t, a, data)
	storeIsAway(t, a, says)
	b.holds("w", data, 0) // fetched now
	b.do("verify", "w", "--cold")
	b.do("log", "v")
	refused(t, b.try("fork", "v", "x"), 3, says)
	refused(t, b.try("wake", "v", "--force"), 1, says)
	// A start needs the store as little.
	a.stop()
	a.start()
	goesOnLocally(t, a, data)
	storeIsAway(t, a, says)
	command(t, "mount", "-o", "remount,rw", mnt)
	storeIsBack(t, a, b, data)
}

// TestVanishedStore: a store that is not there, as when its disk is not mounted.
func TestVanishedStore(t *testing.T) {
	store := t.TempDir()
	a, b := newDaemon(t, "file://"+store), newDaemon(t, "file://"+store)
	data := twoHosts(t, a, b)
	gone := func() { must(t, os.Rename(store, store+".gone")) }
	back := func() { must(t, os.Rename(store+".gone", store)) }
	t.Cleanup(func() { _ = os.RemoveAll(store + ".gone") })
	gone()
	const says = "is gone"
	goesOnLocally(t, a, data)
	storeIsAway(t, a, says)
	// What was never read cannot be had, and only that fails.
	c := b.dial("w")
	defer c.Close()
	buf := make([]byte, len(data))
	isEIO(t, c.Read(buf, 0))
	must(t, c.Write([]byte("not affected"), 32<<20, nbdclient.FUA))
	refused(t, b.try("fork", "v", "x"), 1, says)
	refused(t, b.try("verify", "w", "--cold"), 1, says)
	refused(t, b.try("log", "v"), 1, says)
	refused(t, b.try("wake", "v"), 1, says)
	// A start finds it gone and makes no new one in its place.
	a.stop()
	a.start()
	goesOnLocally(t, a, data)
	storeIsAway(t, a, says)
	if _, err := os.Stat(store); err == nil {
		t.Error("a new store was made where the old one was")
	}
	back()
	must(t, c.Read(buf, 0)) // the same connection
	if !bytes.Equal(buf, data) {
		t.Error("the fork holds other bytes than its parent")
	}
	storeIsBack(t, a, b, data)
}

// TestReadOnlyUser: an S3 user who may only read.
func TestReadOnlyUser(t *testing.T) {
	url, _ := s3test.Start(t)
	env := s3test.AddUser(t, url)
	s3test.Grant(t, url, s3test.Write)
	a, b := newDaemon(t, url), newDaemon(t, url)
	a.env, b.env = env, env
	data := twoHosts(t, a, b)
	s3test.Grant(t, url, s3test.Read)
	const says = "do not permit s3:"
	goesOnLocally(t, a, data)
	storeIsAway(t, a, says)
	b.holds("w", data, 0)
	b.do("verify", "w", "--cold")
	refused(t, b.try("fork", "v", "x"), 3, "--lazy") // the owner cannot flush
	s3test.Grant(t, url, s3test.Write)
	storeIsBack(t, a, b, data)
}
