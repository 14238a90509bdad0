package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/objstoretest"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

const (
	hostilePages = 8
	hostileSize  = mib
	hostileMark  = "a guest of a sealed tenant wrote this" // begins each page
)

// hostilePage is the content of a page by its number; that of 0 is empty.
func hostilePage(n int) []byte {
	if n == 0 {
		return make([]byte, 4096)
	}
	p := random(uint64(n), 4096)
	copy(p, hostileMark)
	return p
}

// hostileState is the pages of a volume.
type hostileState [hostilePages]int

func (s hostileState) bytes() (b []byte) {
	for _, n := range s {
		b = append(b, hostilePage(n)...)
	}
	return b
}

// hostileVolume is what is known of a volume.
type hostileVolume struct {
	name      string
	past      []hostileState // that the store may have
	now       hostileState   // as its owner has it
	uncertain bool           // a write failed: it may have happened
	taken     bool           // by another host
	snaps     int
}

// hostile is a run of a seed: two hosts over a store that lies.
type hostile struct {
	t         *testing.T
	rng       *rand.Rand
	key       keys.Provider
	store     *objstoretest.Malice
	disks     [3]*vfs.MemFS
	hosts     [3]*Host
	volumes   []*hostileVolume
	pages     int
	forks     int
	rotations int
	swallow   bool
	said      []string // what was done
}

func (w *hostile) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s\nlies: %v", fmt.Sprintf(format, args...), strings.Join(w.said, "\n"), w.store.Told())
}

func (w *hostile) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// allowed checks that an error is one that a store which lies may cause.
func (w *hostile) allowed(what string, err error) bool {
	w.t.Helper()
	w.say("%s: %v", what, err)
	switch {
	case err == nil:
		return true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nbd.ESHUTDOWN):
		return false
	}
	switch errs.KindOf(err) {
	case errs.Corrupt, errs.Unavailable, errs.NotFound, errs.Fenced, errs.Busy, errs.WouldLose, errs.Exists, errs.Unsupported:
		return false
	}
	w.fatal("%s fails with the wrong kind %v: %v", what, errs.KindOf(err), err)
	return false
}

func (w *hostile) open(i int) error {
	if w.disks[i] == nil {
		w.disks[i] = vfs.NewMem()
		if err := w.disks[i].MkdirAll(crashData, 0o755); err != nil {
			return err
		}
	}
	h, err := Open(ctx, Config{
		Data: crashData, FS: w.disks[i], Store: w.store, Advertise: string("abc"[i]), NoPrefetch: true, PackBlocks: 4,
		Memory: 256 << 10, Cache: Share{Bytes: 256 << 10}, WALLimit: Share{Bytes: 2 * mib}, Keys: []keys.Provider{w.key},
		Dial: func(string, string) (Peer, error) { return deadPeer{}, nil },
	})
	if w.hosts[i] = nil; err == nil {
		w.hosts[i] = h
	}
	return err
}

func (w *hostile) close(i int) {
	if w.hosts[i] != nil {
		timed, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		_ = w.hosts[i].Close(timed)
		w.hosts[i] = nil
	}
}

// read returns a volume's pages as a guest sees them.
func (w *hostile) read(i int, name string) ([]byte, error) {
	e, err := w.hosts[i].exports.Open(name)
	if err != nil {
		return nil, err
	}
	defer e.Closed()
	b := make([]byte, hostilePages*4096)
	return b, e.Device.ReadAt(b, 0)
}

// write changes some pages on the owner, and may publish them.
func (w *hostile) write(v *hostileVolume) {
	e, err := w.hosts[0].exports.Open(v.name)
	if !w.allowed("open "+v.name, err) {
		return
	}
	defer e.Closed()
	next := v.now
	for range 1 + w.rng.IntN(3) {
		w.pages++
		at := w.rng.IntN(hostilePages)
		next[at] = w.pages
		err := guestWrite(e.Device.(nbd.Acknowledger), uint64(at)*4096, hostilePage(w.pages))
		if v.past = append(v.past, next); !w.allowed("write "+v.name, err) {
			v.uncertain = true
			return
		}
	}
	v.now = next
	if w.rng.IntN(3) > 0 {
		_, err := w.hosts[0].Flush(w.soon(), v.name)
		w.allowed("flush "+v.name, err)
	}
}

// soon is a context that ends before anybody loses patience.
func (w *hostile) soon() context.Context {
	timed, cancel := context.WithTimeout(ctx, time.Second)
	w.t.Cleanup(cancel)
	return timed
}

// right checks what was read of a volume: one of its states, and on its owner the newest.
func (w *hostile) right(v *hostileVolume, name string, got []byte, newest bool) {
	w.t.Helper()
	if bytes.Equal(got, v.now.bytes()) {
		return
	}
	if !newest || v.uncertain {
		for _, s := range v.past {
			if bytes.Equal(got, s.bytes()) {
				return
			}
		}
	}
	w.fatal("%s reads what it may not: rolled back, or wrong bytes", name)
}

// begin makes volumes with histories while the store is honest.
func (w *hostile) begin() {
	tenantstest.Create(w.t, w.store, w.key, "acme", "other")
	for i := range 2 {
		if err := w.open(i); err != nil {
			w.fatal("opening host %d: %v", i, err)
		}
	}
	for i, name := range []string{"acme/a", "acme/b", "other/x"} {
		v := &hostileVolume{name: name, past: []hostileState{{}}}
		w.volumes = append(w.volumes, v)
		policy := []string{volume.Local, volume.Sync, volume.Local}[i]
		must[api.Volume](w.t)(w.hosts[0].Create(ctx, api.CreateRequest{Name: name, Size: hostileSize, BlockSize: 4096, Durability: policy}))
	}
	for range 3 + w.rng.IntN(8) {
		v := w.volumes[w.rng.IntN(len(w.volumes))]
		w.write(v)
		switch w.rng.IntN(6) {
		case 0:
			v.snaps++
			must[api.Snapshot](w.t)(w.hosts[0].Snapshot(ctx, v.name, fmt.Sprintf("s%d", v.snaps), ""))
		case 1:
			must[api.Tenant](w.t)(w.hosts[0].custody.RotateTenant(ctx, "acme", api.RotateRequest{}))
		}
	}
	for _, v := range w.volumes {
		must[api.Flush](w.t)(w.hosts[0].Flush(ctx, v.name))
	}
	if w.rng.IntN(2) == 0 { // its cache is lost
		w.close(0)
		if err := w.disks[0].RemoveAll(crashData + "/slabs"); err != nil {
			w.fatal("%v", err)
		}
		if err := w.open(0); err != nil {
			w.fatal("opening again: %v", err)
		}
	}
}

// step does one thing while the store lies.
func (w *hostile) step() {
	v := w.volumes[w.rng.IntN(len(w.volumes))]
	h := w.hosts[0]
	switch n := w.rng.IntN(10); {
	case n < 3:
		got, err := w.read(0, v.name)
		if w.allowed("read "+v.name, err) {
			w.right(v, v.name, got, true)
		}
	case n < 4:
		w.close(0)
		for again := 0; !w.allowed("restart", w.open(0)); again++ {
			if again == 5 { // what it needs at its start the store hides
				w.store.Arm(nil, false)
			}
		}
		if !w.store.Armed() {
			w.arm()
		}
	case n < 6:
		w.forkAway(v)
	case n < 7 && !v.taken && w.rng.IntN(3) == 0:
		_, err := w.hosts[1].Wake(w.soon(), v.name, true, "")
		v.taken = true // perhaps
		if !w.allowed("take over "+v.name, err) {
			return
		}
		got, err := w.read(1, v.name)
		if w.allowed("read what was taken, "+v.name, err) {
			w.right(v, v.name, got, false)
		}
	case n < 8:
		w.write(v)
	default:
		w.rotations++
		_, err := h.custody.RotateTenant(w.soon(), "acme", api.RotateRequest{Conv: w.rotations%2 == 0})
		w.allowed("rotate", err)
		_, err = h.Verify(w.soon(), v.name, true)
		w.allowed("verify "+v.name, err)
		_, err = h.Log(w.soon(), v.name, "", 0)
		w.allowed("log "+v.name, err)
		_, err = h.List(w.soon(), true)
		w.allowed("list", err)
	}
}

// forkAway forks a volume on the other host, which has seen nothing, and reads it there.
func (w *hostile) forkAway(v *hostileVolume) {
	w.forks++
	tenant, _, _ := strings.Cut(v.name, "/")
	r := api.ForkRequest{Source: v.name, Name: fmt.Sprintf("%s/f%d", tenant, w.forks), Lazy: w.rng.IntN(2) == 0}
	if v.snaps > 0 && w.rng.IntN(3) == 0 {
		r.Source += fmt.Sprintf("@s%d", 1+w.rng.IntN(v.snaps))
	}
	fs, err := w.hosts[1].Fork(w.soon(), r)
	if !w.allowed("fork "+r.Source, err) {
		return
	}
	got, err := w.read(1, fs[0].Name)
	if w.allowed("read "+r.Name, err) {
		w.right(v, r.Name, got, false)
	}
}

func (w *hostile) arm() { w.store.Arm(w.rng.IntN, w.swallow) }

// end checks, with a store that is honest again, that nothing was lost, and that nothing
// was ever sent in clear.
func (w *hostile) end() {
	w.store.Arm(nil, false)
	w.say("honest again")
	w.close(1)
	w.close(0)
	for _, i := range []int{0, 2} {
		if err := w.open(i); err != nil {
			w.fatal("host %d does not open: %v", i, err)
		}
	}
	for _, v := range w.volumes {
		if v.taken {
			continue
		}
		got, err := w.read(0, v.name)
		if err == nil {
			w.right(v, v.name, got, true)
		} else if w.allowed("read in the end "+v.name, err); !w.swallow {
			w.fatal("%s cannot be read: %v", v.name, err)
		}
		w.forks++
		name := fmt.Sprintf("%s-%d", v.name, w.forks)
		if _, err = w.hosts[2].Fork(ctx, api.ForkRequest{Source: v.name, Name: name, Lazy: true}); err == nil {
			if got, err = w.read(2, name); err == nil {
				w.right(v, name, got, false)
			}
		}
		if w.allowed("fork in the end "+v.name, err); err != nil && !w.swallow {
			w.fatal("%s cannot be forked: %v", v.name, err)
		}
	}
	w.store.Sent(func(key string, data []byte) {
		plain := strings.HasPrefix(key, "packs/") || bytes.Contains(data, []byte(hostileMark[:16]))
		if _, _, err := commitlog.ParseKey(key); plain || err == nil && bytes.Contains(data, []byte(`"size"`)) {
			w.fatal("%s was sent with something in clear", key)
		}
	})
}

// hostileSeeds returns which seeds run: GLIDE_MALICE=FROM-TO, by default a slice.
func hostileSeeds(t *testing.T) (from, to uint64) {
	text := os.Getenv("GLIDE_MALICE")
	if text == "" {
		return 1, 100
	}
	a, b, both := strings.Cut(text, "-")
	from, err := strconv.ParseUint(a, 10, 64)
	if to = from; both && err == nil {
		to, err = strconv.ParseUint(b, 10, 64)
	}
	if err != nil {
		t.Fatalf("GLIDE_MALICE=%s is no seed, and no range like 1-10000", text)
	}
	return from, to
}

// TestHostileStore: over a store that lies about the objects of sealed tenants, what a guest
// reads is right or an error of the right kind. A host that remembers is not rolled back, and
// nothing is sent in clear. When the store is honest again nothing is lost, unless it
// acknowledged changes that it did not make.
func TestHostileStore(t *testing.T) {
	key := tenantstest.Key(t)
	told := map[string]int{}
	from, to := hostileSeeds(t)
	for seed := from; seed <= to; seed++ {
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			w := &hostile{t: t, key: key, rng: rand.New(rand.NewPCG(seed, 7)), store: objstoretest.NewMalice(objstore.NewMem(objstore.Clock{}))}
			w.swallow = w.rng.IntN(3) == 0
			w.begin()
			defer func() {
				for i := range w.hosts {
					w.close(i)
				}
			}()
			w.say("hostile; swallows changes: %v", w.swallow)
			w.arm()
			for range 6 + w.rng.IntN(10) {
				w.step()
			}
			w.end()
			for what, n := range w.store.Told() {
				told[what] += n
			}
		})
		if !ok {
			t.Fatalf("GLIDE_MALICE=%d runs that seed again; some of what it meets depends on the scheduler", seed)
		}
	}
	if all := []string{"old", "foreign", "truncated", "flipped", "hidden", "not listed", "swallowed"}; to-from > 50 {
		for _, what := range all {
			if told[what] == 0 && !slices.Contains([]string{"old"}, what) {
				t.Errorf("no lie of the kind %q was told", what)
			}
		}
	}
	t.Logf("seeds %d to %d; lies: %v", from, to, told)
}
