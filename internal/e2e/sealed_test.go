package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/programs"
)

// ask reads a path of a daemon's API, whole.
func (d *daemon) ask(path string) []byte {
	d.tb.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", strings.TrimPrefix(d.api(), "unix:"))
	}}}
	resp, err := c.Get("http://glide" + path)
	must(d.tb, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(d.tb, err)
	return b
}

// TestSealedTenant: disks of a sealed tenant move between hosts, with every policy, and
// nothing of what a guest wrote, and no key, is in the bucket, in what the daemons write, or
// in their answers. With a key of the hosts' own, nothing is on their disks either. The same
// with a plain tenant finds it: the search works.
func TestSealedTenant(t *testing.T) {
	for _, how := range []string{"plain", "sealed", "hidden"} {
		t.Run(how, func(t *testing.T) { sealedTenant(t, how != "plain", how == "hidden") })
	}
}

// sealedTenant is a run with a tenant that is sealed, or that hides names as well.
func sealedTenant(t *testing.T, sealed, hidden bool) {
	bucket := t.TempDir()
	provider, key := keyFile(t)
	var flags []string
	if sealed {
		own, _ := keyFile(t)
		flags = []string{"--key", provider, "--local-key", own, "--sealed-only", "on", "--log-level", "debug"}
	}
	one, two := newDaemon(t, "file://"+bucket, flags...), newDaemon(t, "file://"+bucket, flags...)
	one.start()
	two.start()
	if sealed {
		create := []string{"tenant", "create", "acme", "--key", provider, "--one-key"}
		if hidden {
			create = append(create, "--hide-names")
		}
		one.do(create...)
		refused(t, one.try("create", "open", "--size", "1M"), 0, "")
		refused(t, one.try("flush", "open"), 1, "sealed-only")
	}
	image, marks := guestMarks()
	labels := [][]byte{[]byte("ledger-of-acme"), []byte("label-secret")}
	for _, policy := range []string{"local", "continuous", "sync"} {
		vol := "acme/ledger-of-acme-" + policy
		one.do("create", vol, "--size", "64M", "--durability", policy)
		one.do("set", vol, "label.x=label-secret")
		c := one.dial(vol)
		must(t, c.Write(image, 1<<20, 0))
		must(t, c.Flush())
		must(t, c.Close())
		one.do("snapshot", vol, "s")
		one.do("flush", vol)
		two.do("fork", vol+"@s", vol+"-fork")
		two.holds(vol+"-fork", image, 1<<20)
		two.write(vol+"-fork", image[:1<<20], 32<<20)
		two.do("flush", vol+"-fork")
		two.do("verify", vol+"-fork", "--cold")
		one.do("sleep", vol, "--portable")
	}
	one.kill()
	one.start()
	for _, policy := range []string{"local", "continuous", "sync"} {
		vol := "acme/ledger-of-acme-" + policy
		two.do("wake", vol)
		two.holds(vol, image, 1<<20)
		two.do("verify", vol, "--cold")
	}
	var v api.Volume
	two.json(&v, "show", "acme/ledger-of-acme-sync")
	if v.Encrypted != sealed {
		t.Errorf("encrypted: %v", v.Encrypted)
	}
	if r := two.do("tenant", "show", "acme"); strings.Contains(r, "hidden from the store") != hidden {
		t.Errorf("the tenant:\n%s", r)
	}
	if r := one.do("ls", "--all"); !strings.Contains(r, "acme/ledger-of-acme-sync-fork") || strings.Contains(r, "acme/_") {
		t.Errorf("listed:\n%s", r)
	}
	two.do("rename", "acme/ledger-of-acme-local", "acme/ledger-of-acme-renamed")
	two.do("rm", "--force", "acme/ledger-of-acme-continuous")
	if r := one.do("ls", "--removed"); !strings.Contains(r, "acme/ledger-of-acme-continuous") {
		t.Errorf("removed:\n%s", r)
	}
	secrets := append(append([][]byte{key}, marks...), labels[1])
	found := hits(t, bucket, append(secrets, labels[0])...)
	inClear := 0
	for i, files := range found[:len(secrets)] {
		if inClear += len(files); sealed && len(files) > 0 {
			t.Errorf("secret %d is in the bucket, in %v", i, files)
		}
	}
	if !sealed {
		if inClear == 0 {
			t.Error("the search finds nothing in the bucket of a plain tenant")
		}
		return
	}
	if len(found[len(secrets)]) > 0 {
		t.Error("names are in objects, not only in their keys")
	}
	if named := pathsWith(t, bucket, string(labels[0])); hidden == (len(named) > 0) {
		t.Errorf("names are in the keys %v", named)
	}
	for _, d := range []*daemon{one, two} {
		for i, files := range hits(t, d.data, append(secrets, labels[0])...) {
			if len(files) > 0 {
				t.Errorf("secret %d is on the disk of a host, in %v", i, files)
			}
		}
		for what, text := range map[string][]byte{
			"log": []byte(d.log.String()), "metrics": d.ask("/metrics"), "events": d.ask("/v1/events"), "stats": d.ask("/v1/stats"), "tenants": d.ask("/v1/tenants"), "volumes": d.ask("/v1/volumes"),
		} {
			for i, secret := range secrets[:len(secrets)-1] { // labels are the API's own
				if bytes.Contains(text, secret) {
					t.Errorf("secret %d is in the %s", i, what)
				}
			}
		}
	}
}

// TestLockedTenant: a daemon without the right key serves its other tenants, and says of the
// locked one why, everywhere; nothing of it is lost, and when the key is back, it is there.
func TestLockedTenant(t *testing.T) {
	store := "file://" + t.TempDir()
	path := filepath.Join(t.TempDir(), "key")
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	must(t, os.WriteFile(path, key, 0o600))
	d := newDaemon(t, store, "--key", "file:"+path)
	d.start()
	d.do("tenant", "create", "acme", "--one-key")
	for _, name := range []string{"acme/v", "open"} {
		d.do("create", name, "--size", "8M")
		d.write(name, pattern(4<<20, 7), 0)
		d.do("flush", name)
		d.write(name, pattern(1<<20, 8), 4<<20)
	}
	for name, spoil := range map[string]func(){
		"opened":            func() { must(t, os.Chmod(path, 0o644)) },
		"another key":       func() { _, _ = rand.Read(key[:1]); must(t, os.WriteFile(path, key, 0o600)) },
		"the key is absent": func() { must(t, os.Remove(path)) },
	} {
		good := bytes.Clone(key)
		d.kill()
		spoil()
		d.start()
		if r := d.try("tenant", "show", "acme"); r.Code != 0 || !strings.Contains(r.Out, "locked") {
			t.Errorf("%s: %+v", name, r)
		}
		d.holds("open", pattern(4<<20, 7), 0)
		d.do("flush", "open")
		if out, err := tool(t, "nbdinfo", d.uri("acme/v")); err == nil {
			t.Errorf("%s: a guest of a locked tenant got in: %s", name, out)
		}
		refused(t, d.try("flush", "acme/v"), 1, "acme")
		refused(t, d.try("verify", "acme/v", "--cold"), 1, "acme")
		if state, reason := d.state("acme/v"); state != "locked" || reason == "" {
			t.Errorf("%s: it is %s: %s", name, state, reason)
		}
		if r := d.try("gc"); r.Code != 0 {
			t.Errorf("%s: collection: %+v", name, r)
		}
		copy(key, good)
		must(t, os.WriteFile(path, key, 0o600))
		must(t, os.Chmod(path, 0o600))
		d.kill()
		d.start()
		d.holds("acme/v", pattern(4<<20, 7), 0)
		d.holds("acme/v", pattern(1<<20, 8), 4<<20)
		d.do("verify", "acme/v")
	}
	d.do("flush", "acme/v")
	d.do("verify", "acme/v", "--cold")
}

// TestKeysChangeUnderGuests: roots and wraps change all the time, on two hosts and across
// kill -9, while fio writes and verifies what it wrote; no guest gets an error, and another
// host reads all of it.
func TestKeysChangeUnderGuests(t *testing.T) {
	programs.Need(t, "fio")
	store := "file://" + t.TempDir()
	first, _ := keyFile(t)
	second, _ := keyFile(t)
	d, other := newDaemon(t, store, "--key", first, "--key", second), newDaemon(t, store, "--key", first, "--key", second)
	d.start()
	other.start()
	d.do("tenant", "create", "acme", "--key", first, "--one-key")
	d.do("create", "acme/v", "--size", "64M", "--durability", "continuous")
	image := pattern(16<<20, 5)
	d.write("acme/v", image, 48<<20)
	changes := func(done <-chan struct{}) (n int) {
		for n = 0; ; n++ {
			select {
			case <-done:
				return n
			default:
			}
			who := []*daemon{d, other}[n%2]
			switch n % 3 {
			case 0:
				who.do("tenant", "rotate", "acme")
			case 1:
				who.do("tenant", "rewrap", "acme", "--key", []string{first, second}[n/3%2], "--one-key")
			case 2:
				d.do("flush", "acme/v")
			}
		}
	}
	for round := range 3 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := fio(t.Context(), d.uri("acme/v"), "--rw=randwrite --bs=4k-64k --iodepth=16 --size=48m --io_size=24m --verify=crc32c --verify_fatal=1 --do_verify=1"); err != nil {
				t.Error(err)
			}
		}()
		n := changes(done)
		if n < 6 {
			t.Errorf("round %d: only %d changes", round, n)
		}
		// One more that is cut off in the middle.
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			d.try("tenant", "rotate", "acme")
			d.try("tenant", "rewrap", "acme", "--key", second, "--one-key")
		}()
		time.Sleep(time.Duration(round*7) * time.Millisecond)
		d.kill()
		<-cut
		d.start()
		d.holds("acme/v", image, 48<<20)
	}
	d.do("flush", "acme/v")
	d.do("verify", "acme/v", "--cold")
	other.do("fork", "acme/v", "acme/fork")
	c := d.dial("acme/v")
	defer c.Close()
	for off := uint64(0); off < 64<<20; off += 16 << 20 {
		part := make([]byte, 16<<20)
		must(t, c.Read(part, off))
		other.holds("acme/fork", part, off)
	}
	var x api.Tenant
	other.json(&x, "tenant", "show", "acme")
	if x.Keyring < 10 || len(x.Roots) < 5 || x.State != api.TenantSealed {
		t.Errorf("%+v", x)
	}
	var r api.Rekey
	d.json(&r, "tenant", "rekey", "acme")
	if r.Root != x.Roots[len(x.Roots)-1].Number || r.Packs == 0 || len(r.Retired) > 0 { // roots stay for some minutes
		r.Roots = nil
		t.Errorf("%+v", r)
	}
	d.do("verify", "acme/v", "--cold")
	other.do("verify", "acme/fork", "--cold")
}

// pathsWith are the files and directories under one whose path has a text.
func pathsWith(t *testing.T, dir, text string) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(strings.TrimPrefix(path, dir), text) {
			list = append(list, path)
		}
		return err
	}))
	return list
}
