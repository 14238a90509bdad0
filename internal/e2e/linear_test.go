package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// access is one request to one page: what was written, or read (0: zeros).
type access struct {
	page  int
	write bool
	value uint64
}

// pages is the model: every page is a register on its own. Requests for several
// pages are one access to each.
var pages = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[int][]porcupine.Operation{}
		for _, o := range all {
			by[o.Input.(access).page] = append(by[o.Input.(access).page], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		if a := input.(access); a.write {
			return true, a.value
		}
		return output.(uint64) == state.(uint64), state
	},
	DescribeOperation: func(input, output any) string {
		if a := input.(access); a.write {
			return fmt.Sprintf("write %d", a.value)
		}
		return fmt.Sprintf("read %d", output)
	},
}

// maxTime is the return of a request that was never answered: it may take effect
// at any time, or not at all.
const maxTime = int64(1) << 62

// recorder notes the requests of several guests of one volume, by one clock.
type recorder struct {
	pages int
	began time.Time
	next  atomic.Uint64 // values are never used twice

	mu  sync.Mutex
	ops []porcupine.Operation
}

func newRecorder(pages int) *recorder { return &recorder{pages: pages, began: time.Now()} }

func (x *recorder) now() int64 { return int64(time.Since(x.began)) }

// note adds the accesses of a request. A read that was not answered tells nothing.
func (x *recorder) note(client, first int, q nbdclient.Request, value uint64, called int64, err error) {
	returned := x.now()
	if err != nil {
		if q.Op == nbd.OpRead {
			return
		}
		returned = maxTime
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	n := int(q.Length) / page
	if q.Data != nil {
		n = len(q.Data) / page
	}
	for i := range n {
		a := access{page: first + i, write: q.Op != nbd.OpRead, value: value}
		o := porcupine.Operation{ClientId: client, Input: a, Call: called, Return: returned}
		if q.Op == nbd.OpRead {
			o.Output = binary.LittleEndian.Uint64(q.Data[i*page:])
			if pageOf(q.Data[i*page:][:page]) < 0 {
				o.Output = ^uint64(0) // torn: no write's
			}
		}
		x.ops = append(x.ops, o)
	}
}

// guest sends one request after another until the connection breaks or stop is
// closed. Now and then it flushes.
func (x *recorder) guest(client int, c *nbdclient.Client, r *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if r.IntN(15) == 0 {
			if c.Flush() != nil {
				return
			}
			continue
		}
		n := 1
		if r.IntN(4) == 0 {
			n += r.IntN(min(8, x.pages-1))
		}
		first := r.IntN(x.pages - n + 1)
		q := nbdclient.Request{Op: nbd.OpRead, Off: uint64(first) * page, Length: uint32(n * page)}
		var value uint64
		switch k := r.IntN(10); {
		case k < 5:
			q.Data = make([]byte, n*page)
		case k < 9:
			q.Op, q.Data, value = nbd.OpWrite, make([]byte, n*page), x.next.Add(1)
			for i := range n {
				fillPage(q.Data[i*page:], int(value))
			}
		case r.IntN(2) == 0:
			q.Op = nbd.OpTrim
		default:
			q.Op = nbd.OpZero
		}
		called := x.now()
		res := <-c.Go(q)
		x.note(client, first, q, value, called, res.Err)
		if res.Err != nil {
			return
		}
	}
}

// linearizable checks all that was noted.
func (x *recorder) linearizable() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch res := porcupine.CheckOperationsTimeout(pages, x.ops, 20*time.Second); res {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%d accesses are too many to be checked in time", len(x.ops))
	}
	for _, part := range pages.Partition(x.ops) {
		if !porcupine.CheckOperations(pages, part) {
			return fmt.Errorf("the %d accesses to page %d are not linearizable", len(part), part[0].Input.(access).page)
		}
	}
	return fmt.Errorf("not linearizable")
}

// TestLinearizable has several connections read and write one volume while
// everything goes on that a host does with a volume: it is linearizable, page by page.
func TestLinearizable(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	d := newDaemon(t, "", "--wal-limit", "256M") // a few segments: cleaning is under way
	d.start()
	const volPages = 96
	d.do("create", "v", "--size", "4M", "--block-size", "16K")
	x := newRecorder(volPages)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 5 {
		c, gr := d.dial("v"), rand.New(rand.NewPCG(r.Uint64(), 2))
		defer c.Close()
		wg.Go(func() { x.guest(i, c, gr, stop) })
	}
	wg.Go(func() { d.fillLog(t, stop) })
	verbs := d.disturb(rand.New(rand.NewPCG(r.Uint64(), 3)), time.Now().Add(6*time.Second))
	close(stop)
	wg.Wait()
	if err := x.linearizable(); err != nil {
		t.Error(err)
	}
	var s struct {
		WAL struct {
			Cleaned uint64 `json:"cleaned_bytes"`
		} `json:"wal"`
	}
	d.json(&s, "stats")
	t.Logf("%d accesses to %d pages, meanwhile %v, %d bytes cleaned", len(x.ops), volPages, verbs, s.WAL.Cleaned)
	if s.WAL.Cleaned == 0 {
		t.Error("nothing was cleaned meanwhile")
	}
	// The same with one read that came out of the past.
	x.plantStaleRead(t)
	if err := x.linearizable(); err == nil {
		t.Error("a stale read was not found")
	}
	for _, verb := range []string{"flush", "fork", "snapshot", "set"} {
		if verbs[verb] == 0 {
			t.Errorf("there was no %s meanwhile", verb)
		}
	}
}

// plantStaleRead has one read return what had been overwritten before it was sent.
func (x *recorder) plantStaleRead(t *testing.T) {
	for _, part := range pages.Partition(x.ops) {
		var old, later *porcupine.Operation
		for i := range part {
			switch o := &part[i]; {
			case !o.Input.(access).write:
			case old == nil && o.Input.(access).value != 0:
				old = o
			case old != nil && later == nil && o.Call > old.Return:
				later = o
			}
		}
		if later == nil {
			continue
		}
		for i := range x.ops {
			if o := &x.ops[i]; o.Input.(access) == (access{page: part[0].Input.(access).page}) && o.Call > later.Return {
				o.Output = old.Input.(access).value
				return
			}
		}
	}
	t.Error("no page was written twice and read then")
}

// fillLog writes much to another volume, so that segments have to be cleaned.
func (d *daemon) fillLog(t *testing.T, stop <-chan struct{}) {
	if r := d.try("create", "filler", "--size", "64M"); r.Code != 0 {
		t.Errorf("create: %s", r.Err)
		return
	}
	c := d.dial("filler")
	defer c.Close()
	b, r := pattern(1<<20, 1), rand.New(rand.NewPCG(1, 1))
	for {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if err := c.Write(b, r.Uint64N(64)<<20, 0); err != nil {
			t.Error(err)
			return
		}
	}
}

// disturb does what may be done to a volume while guests use it, and counts what succeeded.
func (d *daemon) disturb(r *rand.Rand, end time.Time) map[string]int {
	done := map[string]int{}
	for i := 0; time.Now().Before(end); i++ {
		verb := []string{"fork", "v", fmt.Sprintf("f%d", i)}
		which := i // each once, and then at random
		if i > 3 {
			which = r.IntN(6)
		}
		switch which {
		case 0:
			verb = []string{"flush", "v"}
		case 1:
			verb = []string{"snapshot", "v", fmt.Sprintf("s%d", i)}
		case 2, 4, 5:
			verb = []string{"set", "v", "durability=" + []string{"local", "continuous", "sync"}[r.IntN(3)], "rpo=" + []string{"200ms", "1s"}[r.IntN(2)]}
		}
		if res := d.try(verb...); res.Code == 0 {
			done[verb[0]]++
		} else {
			d.tb.Errorf("glide %v: exit %d: %s", verb, res.Code, res.Err)
		}
		if verb[0] == "fork" && r.IntN(2) == 0 {
			d.try("rm", verb[2])
		}
	}
	return done
}

// TestLinearizableAcrossKill9: what is read after kill -9 and a restart are the
// registers before it; of the writes that no flush covers a suffix may be gone,
// in the order in which they took effect.
func TestLinearizableAcrossKill9(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	d := newDaemon(t, "", "--wal-limit", "256M")
	d.start()
	const volPages = 64
	d.do("create", "v", "--size", "1M", "--block-size", "16K")
	var before []porcupine.Operation // writes that the disk is as after
	total := 0
	for round := range 4 {
		policy := []string{"local", "continuous", "sync"}[(round+r.IntN(2))%3]
		d.do("set", "v", "durability="+policy, "rpo=500ms")
		x := newRecorder(volPages)
		x.next.Store(uint64(round+1) << 32)
		x.ops = before
		stop := make(chan struct{})
		var wg sync.WaitGroup
		marks := make([]flushes, 4)
		for i := range marks {
			c, gr := d.dial("v"), rand.New(rand.NewPCG(r.Uint64(), 2))
			wg.Go(func() { marks[i].run(x, i, c, gr, stop); _ = c.Close() })
		}
		time.Sleep(300*time.Millisecond + time.Duration(r.Int64N(int64(time.Second))))
		d.kill()
		close(stop)
		wg.Wait()
		d.start()
		disk := d.readAll("v", 1<<20)
		if err := x.linearizable(); err != nil { // by itself, before the kill
			t.Fatalf("round %d, %s: %v", round, policy, err)
		}
		if err := x.recovered(disk, marks); err != nil {
			t.Fatalf("round %d, %s: %v", round, policy, err)
		}
		total += len(x.ops)
		before = nil
		for i := range volPages {
			o := porcupine.Operation{Input: access{page: i, write: true, value: binary.LittleEndian.Uint64(disk[i*page:])}}
			before = append(before, o) // called and returned at 0, before all others
		}
	}
	t.Logf("%d accesses, %d times killed", total, 4)
}

// flushes are the times at which a guest's answered flushes were sent.
type flushes []int64

// run is a guest that has its flushes noted.
func (f *flushes) run(x *recorder, client int, c *nbdclient.Client, r *rand.Rand, stop <-chan struct{}) {
	for {
		burst := make(chan struct{})
		timer := time.AfterFunc(time.Duration(r.Int64N(int64(20*time.Millisecond))), func() { close(burst) })
		x.guest(client, c, r, burst)
		timer.Stop()
		sent := x.now()
		if c.Flush() != nil {
			return
		}
		*f = append(*f, sent)
		select {
		case <-stop:
			return
		default:
		}
	}
}

// recovered checks the durable registers: a page holds what the last write to it
// had written that a flush covers, or what one that came after it, or beside it, did.
func (x *recorder) recovered(disk []byte, marks []flushes) error {
	var durable int64 // what returned before this is
	for _, f := range marks {
		if len(f) > 0 {
			durable = max(durable, slices.Max(f))
		}
	}
	// The registers as the last durable moment left them, and then a restart that
	// keeps any linear extension: a read of each page that runs from that moment on.
	all := slices.Clone(x.ops)
	for i := range x.pages {
		v := binary.LittleEndian.Uint64(disk[i*page:])
		if pageOf(disk[i*page:][:page]) < 0 {
			return fmt.Errorf("page %d is torn", i)
		}
		all = append(all, porcupine.Operation{ClientId: 100, Input: access{page: i}, Output: v, Call: durable, Return: maxTime})
	}
	if !porcupine.CheckOperations(pages, all) {
		return fmt.Errorf("what came back is no state since the last flush (sent %v after the start)", time.Duration(durable))
	}
	return x.prefix(disk)
}

// prefix checks that what is gone is a suffix: no write came back that began
// after one had returned that did not, unless that was overwritten.
func (x *recorder) prefix(disk []byte) error {
	byPage := map[int][]porcupine.Operation{}
	var newest int64 // the latest call of a write that came back
	for _, o := range x.ops {
		if a := o.Input.(access); a.write {
			byPage[a.page] = append(byPage[a.page], o)
			if a.value != 0 && binary.LittleEndian.Uint64(disk[a.page*page:]) == a.value {
				newest = max(newest, o.Call)
			}
		}
	}
	for p, writes := range byPage {
		has := binary.LittleEndian.Uint64(disk[p*page:])
		var mine *porcupine.Operation
		for i := range writes {
			if writes[i].Input.(access).value == has && (has != 0 || mine == nil || writes[i].Return > mine.Return) {
				mine = &writes[i]
			}
		}
		for _, o := range writes {
			// o wholly follows the write that is there, and wholly precedes one that came back elsewhere.
			if o.Input.(access).value != has && o.Return < newest && (mine == nil || o.Call > mine.Return) {
				return fmt.Errorf("page %d lacks write %d, which returned before a write began that came back", p, o.Input.(access).value)
			}
		}
	}
	return nil
}

// TestCheckerFails: the checks find what they look for.
func TestCheckerFails(t *testing.T) {
	w := func(p int, v uint64, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: access{page: p, write: true, value: v}, Call: call, Return: ret}
	}
	rd := func(p int, v uint64, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: 1, Input: access{page: p}, Output: v, Call: call, Return: ret}
	}
	for name, ops := range map[string][]porcupine.Operation{
		"a stale read":        {w(0, 1, 0, 1), w(0, 2, 2, 3), rd(0, 1, 4, 5)},
		"a read of the past":  {w(0, 1, 0, 1), w(0, 2, 2, 9), rd(0, 2, 3, 4), rd(0, 1, 5, 6)},
		"a torn page":         {w(0, 1, 0, 1), rd(0, ^uint64(0), 2, 3)},
		"another page's":      {w(0, 1, 0, 1), rd(1, 1, 2, 3)},
		"a trim without show": {w(0, 1, 0, 1), w(0, 0, 2, 3), rd(0, 1, 4, 5)},
	} {
		if err := (&recorder{pages: 2, ops: ops}).linearizable(); err == nil {
			t.Errorf("%s was not found", name)
		}
	}
	good := []porcupine.Operation{w(0, 1, 0, 5), rd(0, 0, 1, 2), rd(0, 1, 3, 4), w(0, 2, 6, maxTime), rd(0, 2, 7, 8)}
	if err := (&recorder{pages: 1, ops: good}).linearizable(); err != nil {
		t.Error(err)
	}
	disk := func(values ...int) []byte {
		b := make([]byte, len(values)*page)
		for i, v := range values {
			fillPage(b[i*page:], v)
		}
		return b
	}
	x := &recorder{pages: 2, ops: []porcupine.Operation{w(0, 1, 0, 1), w(1, 2, 2, 3), w(0, 3, 4, 5), w(1, 4, 6, 7)}}
	for name, bad := range map[string][]byte{
		"a flushed write is gone": disk(1, 0), "none of any write": disk(9, 2), "a write came back without one before it": disk(1, 4),
	} {
		if err := x.recovered(bad, []flushes{{4}}); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
	for _, ok := range [][]byte{disk(1, 2), disk(3, 2), disk(3, 4)} {
		if err := x.recovered(ok, []flushes{{4}}); err != nil {
			t.Error(err)
		}
	}
}
