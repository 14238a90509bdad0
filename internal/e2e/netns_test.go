package e2e

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

const labDisk = 4 << 20

// TestNetwork has real daemons and a real S3 server on a network that is cut,
// with machines that hang, and a server that is killed.
func TestNetwork(t *testing.T) {
	l := newLab(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	tests := []struct {
		name string
		run  func(*testing.T, *lab, *rand.Rand)
	}{
		{"CutOff", func(t *testing.T, l *lab, r *rand.Rand) { takenOver(t, l, r, false) }},
		{"OutOfEachOthersSight", func(t *testing.T, l *lab, r *rand.Rand) { takenOver(t, l, r, true) }},
		{"FrozenOwner", frozenOwner},
		{"Released", released},
		{"LateRequest", lateRequest},
	}
	// Mostly they wait, for a host that does not answer.
	var wg sync.WaitGroup
	for i, test := range tests {
		wg.Go(func() {
			t.Run(test.name, func(t *testing.T) { test.run(t, l, rand.New(rand.NewPCG(seed, uint64(i)))) })
		})
	}
	wg.Wait()
	t.Run("KilledStore", func(t *testing.T) { killedStore(t, l) })
}

// writer is a guest whose writes come one after the other, and who knows what
// its disk holds.
type writer struct {
	t    *testing.T
	c    *nbdclient.Client
	r    *rand.Rand
	disk []byte
}

func (w *writer) write(n int) {
	w.t.Helper()
	for range n {
		at, data := w.r.IntN(labDisk-page-20_000), pattern(1+w.r.IntN(20_000), w.r.Int())
		must(w.t, w.c.Write(data, uint64(at), 0))
		copy(w.disk[at:], data)
	}
}

// resultIn waits for the result of a request.
func resultIn(t *testing.T, ch <-chan nbdclient.Result, limit time.Duration) error {
	t.Helper()
	select {
	case res := <-ch:
		return res.Err
	case <-time.After(limit):
		t.Fatalf("no answer in %v", limit)
		return nil
	}
}

// same wants two disks to be equal.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	wrong := 0
	for i := 0; i < len(want); i += page {
		if !bytes.Equal(got[i:i+page], want[i:i+page]) {
			wrong++
		}
	}
	t.Errorf("%s: %d of %d pages differ", what, wrong, len(want)/page)
}

// within waits until something is so.
func within(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so within %v: %s", limit, what)
		}
	}
}

// wakeRefused wants a wake to be refused once the owner has not answered for 5 s.
func wakeRefused(t *testing.T, h *labHost, name, generation string) {
	t.Helper()
	began := time.Now()
	r := h.try("wake", name)
	took := time.Since(began)
	refused(t, r, 3, "since generation "+generation+" (")
	if !regexp.MustCompile(`\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)\)`).MatchString(r.Err) {
		t.Errorf("it does not say since when: %s", r.Err)
	}
	if took > 8*time.Second {
		t.Errorf("a wake of what an unreachable host holds took %v to be refused", took)
	}
}

// fencedWithRescue wants a volume of the host to be fenced, its rescue volume to be
// there, and both to be told.
func fencedWithRescue(t *testing.T, h *labHost, name, rescue string) {
	t.Helper()
	var v api.Volume
	within(t, 20*time.Second, name+" is fenced, and has its rescue", func() bool { // which is made just after
		h.json(&v, "show", name)
		return v.State == "fenced" && strings.Contains(v.Reason, rescue)
	})
	events := h.do("events")
	if !regexp.MustCompile(`(?m)volume ` + regexp.QuoteMeta(name) + `: fenced.*\b` + regexp.QuoteMeta(rescue) + `$`).MatchString(events) {
		t.Errorf("the events do not tell that %s was fenced:\n%s", name, events)
	}
}

// takenOver takes a sync volume away from a host that cannot be asked: one that
// reaches nobody (bothReachStore false), or one that reaches all but the asker.
func takenOver(t *testing.T, l *lab, r *rand.Rand, bothReachStore bool) {
	a, b := l.host(t), l.host(t)
	a.do("create", "w"+a.port, "--size", "4M", "--durability", "sync")
	name := "w" + a.port
	c := a.dial(name)
	defer c.Close()
	guest := &writer{t, c, r, make([]byte, labDisk)}
	guest.write(20)
	must(t, c.Flush())
	stored := slices.Clone(guest.disk)
	var v api.Volume
	a.json(&v, "show", name)
	if bothReachStore {
		a.apart()
		b.apart()
		wakeRefused(t, b, name, v.Generation)
	} else {
		a.cut()
		guest.write(20)
	}
	flush := c.Go(nbdclient.Request{Op: nbd.OpFlush})
	if !bothReachStore {
		wakeRefused(t, b, name, v.Generation)
		select {
		case res := <-flush:
			t.Fatalf("a flush that cannot have reached the store was answered: %v", res.Err)
		default:
		}
	} else {
		must(t, resultIn(t, flush, 10*time.Second))
	}
	b.do("wake", name, "--force")
	same(t, "what was taken over", b.readAll(name, labDisk), stored)
	if bothReachStore {
		// It does not know yet.
		guest.write(20)
		flush = c.Go(nbdclient.Request{Op: nbd.OpFlush})
	} else {
		guest.write(20)
	}
	c2 := b.dial(name)
	defer c2.Close()
	guest2 := &writer{t, c2, r, stored}
	guest2.write(20)
	must(t, c2.Flush())
	if !bothReachStore {
		a.join()
	}
	isEIO(t, resultIn(t, flush, 30*time.Second))
	within(t, 10*time.Second, "writes fail too", func() bool {
		err := c.Write(make([]byte, page), 0, 0)
		if err == nil { // it was faster than the fence: this, no flush has covered
			clear(guest.disk[:page])
			return false
		}
		isEIO(t, err)
		return true
	})
	rescue := name + ".rescue-1"
	fencedWithRescue(t, a, name, rescue)
	same(t, "the rescue volume", a.readAll(rescue, labDisk), guest.disk)
	guest2.write(5)
	same(t, "the new owner's volume", b.readAll(name, labDisk), guest2.disk)
}

// frozenOwner takes volumes of every policy away from a host that hangs in the
// midst of traffic, and goes on later as if nothing had happened.
func frozenOwner(t *testing.T, l *lab, r *rand.Rand) {
	const rpo = time.Second
	a, b := l.host(t), l.host(t)
	a.do("create", "fs", "--size", "4M", "--durability", "sync")
	a.do("create", "fc", "--size", "4M", "--durability", "continuous", "--rpo", rpo.String())
	a.do("create", "fl", "--size", "4M")
	// Pages of the guests of a; the last one is for the guest of b.
	hist := &history{pages: labDisk/page - 1}
	stamps := &stamped{}
	cs, cc, cl := a.dial("fs"), a.dial("fc"), a.dial("fl")
	defer cs.Close()
	defer cc.Close()
	defer cl.Close()
	guest := &writer{t, cl, r, make([]byte, labDisk)}
	guest.write(30)
	a.do("flush", "fl")
	flushed := slices.Clone(guest.disk)
	guest.write(30)
	must(t, cl.Flush())
	ended := make(chan error, 2)
	tr := rand.New(rand.NewPCG(r.Uint64(), 2))
	go func() { ended <- hist.traffic(cs, tr) }()
	go func() { stamps.run(cc, nil); ended <- nil }()
	time.Sleep(500*time.Millisecond + time.Duration(r.Int64N(int64(time.Second))))
	a.freeze()
	disks := takeThree(t, b)
	hist.mu.Lock()
	ops, sure := slices.Clone(hist.ops), hist.flushed
	hist.mu.Unlock()
	if err := (&history{pages: hist.pages, ops: ops, flushed: sure}).check(disks["fs"]); err != nil {
		t.Errorf("the sync volume: %v", err)
	}
	same(t, "the local volume", disks["fl"][:labDisk-page], flushed[:labDisk-page])
	a.thaw()
	guest.write(5) // it does not know yet
	for range 2 {
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatal("the guests of the host that was frozen are not told")
		}
	}
	refused(t, a.try("flush", "fl"), 1, "rescue volume")
	for _, name := range []string{"fs", "fc", "fl"} {
		fencedWithRescue(t, a, name, name+".rescue-1")
		same(t, name+" of the new owner", b.readAll(name, labDisk), disks[name])
	}
	hist.flushed = hist.answered // the rescue has all
	t.Logf("%d writes to the sync volume, %d to the other", hist.answered, len(stamps.acked))
	if err := hist.check(a.readAll("fs.rescue-1", labDisk)); err != nil {
		t.Errorf("the rescue of the sync volume: %v", err)
	}
	if n := stamps.survived(t, a.readAll("fc.rescue-1", labDisk)); n < len(stamps.acked) {
		t.Errorf("the rescue of the continuous volume has %d of %d acknowledged writes", n, len(stamps.acked))
	}
	same(t, "the rescue of the local volume", a.readAll("fl.rescue-1", labDisk), guest.disk)
	if span := lostSpan(t, disks["fc"], []*stamped{stamps}); span > rpo {
		t.Errorf("acknowledgements of %v were lost, %v are promised", span, rpo)
	}
}

// takeThree takes the three volumes over and writes the last page of each, which
// no other guest does. It returns what they hold then.
func takeThree(t *testing.T, b *labHost) map[string][]byte {
	t.Helper()
	var wg sync.WaitGroup
	names := []string{"fs", "fc", "fl"}
	for _, name := range names {
		wg.Go(func() {
			if r := b.try("wake", name, "--force"); r.Code != 0 {
				t.Errorf("wake %s: exit %d: %s", name, r.Code, r.Err)
			}
		})
	}
	wg.Wait()
	disks := map[string][]byte{}
	for i, name := range names {
		disk := b.readAll(name, labDisk)
		mark := pattern(page, i+1)
		b.write(name, mark, labDisk-page)
		copy(disk[labDisk-page:], mark)
		disks[name] = disk
	}
	return disks
}

// released: a volume that was put to sleep portably wakes elsewhere while its last
// host does not answer anybody.
func released(t *testing.T, l *lab, r *rand.Rand) {
	a, b := l.host(t), l.host(t)
	a.do("create", "p", "--size", "4M")
	c := a.dial("p")
	guest := &writer{t, c, r, make([]byte, labDisk)}
	guest.write(30)
	_ = c.Close()
	a.do("sleep", "p", "--portable")
	a.freeze()
	began := time.Now()
	b.do("wake", "p")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("waking what was released took %v: was its last host asked?", took)
	}
	same(t, "what was released", b.readAll("p", labDisk), guest.disk)
}

// lateRequest has requests for a release, and for a flush, wait at a frozen owner
// for longer than the asker did.
func lateRequest(t *testing.T, l *lab, r *rand.Rand) {
	a, b := l.host(t), l.host(t)
	names := []string{"q1", "q2", "q3", "q4", "q5", "q6"}
	before := map[string]api.Volume{}
	guests := map[string]*writer{}
	for _, name := range names {
		a.do("create", name, "--size", "4M")
		c := a.dial(name)
		guests[name] = &writer{t, c, r, make([]byte, labDisk)}
		guests[name].write(5)
		a.do("flush", name)
		if name < "q4" { // others have nothing left to be flushed, and are quicker
			guests[name].write(5)
		}
		_ = c.Close()
		within(t, 5*time.Second, "the guest has gone", func() bool {
			var v api.Volume
			a.json(&v, "show", name)
			before[name] = v
			return v.Exports == 0
		})
	}
	a.freeze()
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if i%3 == 2 {
				refused(t, b.try("fork", name, "f"+name), 3, "--lazy")
			} else {
				wakeRefused(t, b, name, before[name].Generation)
			}
		})
	}
	wg.Wait()
	a.thaw()
	time.Sleep(time.Second)
	for _, name := range names {
		var v api.Volume
		a.json(&v, "show", name)
		if v.State != "active" || v.Generation != before[name].Generation || v.DirtyBytes != before[name].DirtyBytes {
			t.Errorf("a request that came late had an effect: %s was %+v, is %+v", name, before[name], v)
		}
		b.do("wake", name)
		same(t, name, b.readAll(name, labDisk), guests[name].disk)
	}
}

// killedStore kills the S3 server: what needs it waits, and goes on by itself.
func killedStore(t *testing.T, l *lab) {
	a := l.host(t)
	a.do("create", "kl", "--size", "4M")
	a.do("create", "ks", "--size", "4M", "--durability", "sync")
	data := pattern(100<<10, 7)
	a.write("ks", data, 0)
	l.s3.Kill()
	c := a.dial("ks")
	defer c.Close()
	must(t, c.Write(data, 1<<20, 0))
	flush := c.Go(nbdclient.Request{Op: nbd.OpFlush})
	began := time.Now()
	a.write("kl", data, 0)
	a.do("fork", "kl", "klf")
	a.holds("klf", data, 0)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("what needs no store took %v without one", took)
	}
	show := func(name string) (v api.Volume) {
		a.json(&v, "show", name)
		return v
	}
	var v api.Volume
	within(t, 8*time.Second, "show and events tell that the store is away", func() bool {
		v = show("ks")
		return strings.Contains(v.Reason, "the store does not take commits") &&
			strings.Contains(a.do("events"), "store ks: the store does not take commits")
	})
	if v.State != "active" || v.DirtyBytes == 0 || v.Unpublished == 0 {
		t.Errorf("%+v", v)
	}
	if v = show("kl"); v.State != "active" || v.Reason != "" {
		t.Errorf("%+v", v)
	}
	select {
	case res := <-flush:
		t.Fatalf("a flush was answered without a store: %v", res.Err)
	default:
	}
	l.s3.Start()
	must(t, resultIn(t, flush, 15*time.Second))
	if v = show("ks"); v.Reason != "" || v.Unpublished != 0 {
		t.Errorf("the store is back, and show says %+v", v)
	}
	if events := a.do("events"); !strings.Contains(events, "store ks: the store takes commits again") {
		t.Errorf("the events do not tell that the store is back:\n%s", events)
	}
	a.kill()
	b := l.host(t)
	b.do("wake", "ks", "--force")
	b.holds("ks", data, 1<<20)
}
