package host

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// exploreFault strikes one request of one operation of a sequence.
type exploreFault struct {
	op   int // from 0
	at   int // which of its changes, from 1; 0: no fault
	blow blow
}

// exploreCase is one run. Its text is what GLIDE_EXPLORE replays.
type exploreCase struct {
	start string // "one" or "two" volumes, or one and there "was" another, and how many steps a collector has made
	ops   []string
	fault exploreFault
}

func (c *exploreCase) String() string {
	s := c.start + " " + strings.Join(c.ops, " ")
	if c.fault.at > 0 {
		s += fmt.Sprintf(" / %d %d %s", c.fault.op, c.fault.at, c.fault.blow)
	}
	return s
}

func parseExploreCase(s string) (c exploreCase) {
	s, fault, _ := strings.Cut(s, "/")
	f := strings.Fields(s)
	c.start, c.ops = f[0], f[1:]
	_, _ = fmt.Sscan(fault, &c.fault.op, &c.fault.at, &c.fault.blow)
	return c
}

// begin makes what a sequence starts from: on the first host v1, with a pack of which a
// slot is dead, and what a removed volume has left. That host knows the blocks of both, and
// finds them again when they are written again. Of two volumes, v2 is a fork of v1 on the
// other host, which was written, flushed and removed if there was one.
func (w *explored) begin(start string) {
	h := w.machines[0].h
	for _, name := range []string{"v1", "w"} {
		_, err := h.Create(ctx, api.CreateRequest{Name: name, Size: explorePages * explorePage, BlockSize: explorePage})
		w.must(err, "creating %s", name)
	}
	w.must(exploreWrite(h, "w", content{}, content{garbagePage}), "writing")
	_, err := h.Flush(ctx, "w")
	w.must(err, "flushing")
	w.must(h.Remove(ctx, "w", false), "removing")
	first := content{deadPage, 90, 91}
	w.must(exploreWrite(h, "v1", content{}, first), "writing")
	w.slots[0] = slot{exists: true, live: first}
	w.must(w.flush(0), "flushing")
	for range 2 {
		w.must(w.write(0, false), "writing")
	}
	w.round("the first")
	if !strings.HasPrefix(start, "one") {
		w.must(w.fork(0, 1, false), "forking")
	}
	if strings.HasPrefix(start, "was") {
		w.must(w.write(1, false), "writing")
		w.must(w.remove(1), "removing")
	}
	w.settle()
	for range start[3] - '0' {
		w.must(w.gcStep(), "a step of the collector")
	}
	w.acting = nil
}

// outcome is what a run tells about itself.
type outcome struct {
	changes []int // requests that changed something, by operation
	states  []uint64
	wrong   string
}

// explore runs one case, and brings it to its end.
func explore(c *exploreCase) outcome {
	return explorePrefix(c, (*explored).finish)
}

// explorePrefix runs one case, and then end.
func explorePrefix(c *exploreCase, end func(*explored)) (out outcome) {
	late := time.AfterFunc(time.Minute, func() { panic("it hangs: " + c.String()) })
	defer late.Stop()
	w := newExplored()
	defer func() {
		if r := recover(); r != nil {
			v, ok := r.(violation)
			if !ok {
				panic(fmt.Sprintf("%s: %v", c, r))
			}
			out.wrong = string(v)
			return // what hangs at a gate is left alone
		}
		w.close()
	}()
	w.begin(c.start)
	for i, op := range c.ops {
		out.changes = append(out.changes, w.run(i, op, &c.fault))
		if c.fault.at > 0 && i == c.fault.op+1 {
			w.land()
		}
		w.check(fmt.Sprintf("after operation %d, %s", i, op))
		out.states = append(out.states, w.state())
	}
	end(w)
	return out
}

// unsure tells whether an operation is about a volume that may not be there, because what
// would have made or removed it failed.
func (w *explored) unsure(op string) (skip, mayFail bool) {
	if len(op) < 2 {
		return false, false
	}
	v := int(op[1] - '1')
	if op[0] == 'B' {
		to := int(op[2] - '1')
		f := w.slots[to].failed
		return f != 0 && (f != 'R' || to != v), f == 'R'
	}
	skip = !w.slots[v].stored && strings.Contains("CF", op[:1]) // its first flush failed, and the other host does not know it
	for i, s := range w.slots {
		if i == v || strings.Contains("SDF", op[:1]) {
			skip = skip || s.failed != 0 && strings.ContainsRune("NSFRB", rune(s.failed))
			mayFail = mayFail || s.failed == 'C'
		}
	}
	return skip, mayFail
}

// run does the operation with a number, and strikes it if the fault says so.
func (w *explored) run(i int, op string, f *exploreFault) (changes int) {
	skip, mayFail := w.unsure(op)
	if skip {
		return 0
	}
	w.acting = nil
	n := 0
	if f.op == i {
		n = f.at
	}
	w.armed = func(p *process) { p.arm(n, f.blow) }
	err := w.do(op)
	p := w.acting
	w.armed, w.acting = nil, nil
	changes, struck := p.disarm()
	w.must(w.paused, "operation %d, %s: a round while it waited", i, op)
	if struck == "" || f.blow.pauses() {
		if err != nil && !mayFail {
			broken("operation %d, %s: %v", i, op, err)
		}
		return changes
	}
	if p.late != nil {
		w.lates = append(w.lates, p)
	}
	if p.isDead() {
		for k, m := range w.machines {
			if m.p == p {
				w.restart(k)
			}
		}
		if w.steps != nil && w.steps.process == p {
			w.steps.finish()
			w.steps = nil
		}
	}
	return changes
}

// exploreModel knows which operations can do anything.
type exploreModel struct {
	exists, stored [2]bool
	at             [2]int
	removed        [2]bool // there is something to restore, or there was
	collected      [2]bool // it is gone
}

// model is what the operations so far have made.
func (w *explored) model() (m exploreModel) {
	for v := range w.slots {
		s := &w.slots[v]
		m.exists[v], m.stored[v], m.at[v], m.removed[v] = s.exists, s.stored, s.at, s.gone != nil
		m.collected[v] = s.gone != nil && w.collected(v)
	}
	return m
}

// next is the operations that can follow. What is gone is restored only by the last one:
// that changes nothing.
func (m *exploreModel) next(last bool) (ops []string) {
	for v := range 2 {
		n := fmt.Sprint(v + 1)
		if to := m.free(v); m.removed[v] && to >= 0 && (last || !m.collected[v]) {
			ops = append(ops, fmt.Sprintf("B%s%da", n, to+1), fmt.Sprintf("B%s%db", n, to+1))
		}
		if !m.exists[v] {
			if m.exists[1-v] || v == 0 {
				ops = append(ops, "N"+n)
			}
			continue
		}
		ops = append(ops, "W"+n+"n", "W"+n+"g", "R"+n)
		if m.stored[v] {
			ops = append(ops, "C"+n)
		}
		if !m.exists[1-v] {
			ops = append(ops, "S"+n, "D"+n)
			if m.stored[v] {
				ops = append(ops, "F"+n)
			}
		}
	}
	return append(ops, "G", "H")
}

// free is the slot for a removed volume: its own, or else the other; -1 if there is none.
func (m *exploreModel) free(v int) int {
	switch {
	case !m.exists[v]:
		return v
	case !m.exists[1-v]:
		return 1 - v
	}
	return -1
}

// swaps tells whether two operations in a row do the same in the other order, which comes
// first in the enumeration: they are of different volumes on different hosts, and neither
// makes a fork.
func (m *exploreModel) swaps(first, then string) bool {
	return len(first) > 1 && len(then) > 1 && first[1] > then[1] && strings.Contains("WR", first[:1]) && strings.Contains("WR", then[:1]) && m.at[0] != m.at[1]
}

// sequences calls fn with every sequence of a length. Which operations can follow others
// is known when those have run: a restoration may be refused.
func (x *explorer) sequences(start string, depth int, fn func(ops []string)) {
	var extend func(ops []string)
	extend = func(ops []string) {
		if len(ops) == depth {
			fn(slices.Clone(ops))
			return
		}
		var m exploreModel
		c := exploreCase{start: start, ops: ops}
		if out := explorePrefix(&c, func(w *explored) { m = w.model() }); out.wrong != "" {
			x.wrong(&c, &out)
			return
		}
		last := len(ops)+1 == depth
		for _, op := range m.next(last) {
			// Not of the last two, since the last one is struck.
			if n := len(ops); n > 0 && !last && m.swaps(ops[n-1], op) {
				continue
			}
			extend(append(ops, op))
		}
	}
	extend(nil)
}

// explorer runs cases and counts.
type explorer struct {
	t      *testing.T
	ran    atomic.Int64 // sequences
	faulty atomic.Int64
	failed atomic.Int64
	until  time.Time // when it gives up

	mu     sync.Mutex
	states map[uint64]bool
}

func (x *explorer) run(c *exploreCase) outcome {
	out := explore(c)
	x.mu.Lock()
	for _, s := range out.states {
		x.states[s] = true
	}
	x.mu.Unlock()
	if out.wrong != "" {
		x.wrong(c, &out)
	}
	return out
}

// wrong reports a violation.
func (x *explorer) wrong(c *exploreCase, out *outcome) {
	if x.failed.Add(1) <= 10 {
		x.t.Errorf("%s\n\treplay: GLIDE_EXPLORE='%s' go test -tags invariants -run TestExplore ./internal/host", out.wrong, c)
	}
}

// sequence runs a sequence, and if faults is set again with a fault at each request of its
// last operation, and with a request of the operation before it that takes effect after
// the last one.
func (x *explorer) sequence(start string, ops []string, faults bool) {
	c := exploreCase{start: start, ops: ops}
	out := x.run(&c)
	x.ran.Add(1)
	if !faults || out.wrong != "" {
		return
	}
	for back := range min(2, len(ops)) {
		i := len(ops) - 1 - back
		list := blows
		if len(ops) == 1 {
			list = shortBlows
		}
		for _, b := range list {
			if b.pauses() && b != pause && ops[i] == "G" {
				continue // it is the collector that waits
			}
			if back == 1 && b != crashLate && b != replyLate {
				continue // a shorter sequence, and what follows makes no difference
			}
			for n := range out.changes[i] {
				if b == crashBefore && n > 0 {
					continue // crashAfter the one before it
				}
				c.fault = exploreFault{i, n + 1, b}
				x.run(&c)
				x.faulty.Add(1)
			}
		}
	}
}

// all runs every sequence of a depth from a start, or if nth is not 1 every nth of them.
func (x *explorer) all(start string, depth int, faults bool, nth int) {
	before, faulty := x.ran.Load(), x.faulty.Load()
	var wg sync.WaitGroup
	var left atomic.Int64 // sequences for which there was no time
	work := make(chan []string)
	for range 12 { // most of them wait for a moment now and then
		wg.Go(func() {
			for ops := range work {
				switch {
				case x.failed.Load() >= 10:
				case !x.until.IsZero() && time.Now().After(x.until):
					left.Add(1)
				default:
					x.sequence(start, ops, faults)
				}
			}
		})
	}
	began := time.Now()
	n := 0
	x.sequences(start, depth, func(ops []string) {
		if n++; (n-1)%nth == 0 {
			work <- ops
		}
	})
	close(work)
	wg.Wait()
	x.t.Logf("%s, depth %d: %d of %d sequences and %d runs with a fault in %.1f s; no time for %d", start, depth, x.ran.Load()-before, n, x.faulty.Load()-faulty, time.Since(began).Seconds(), left.Load())
}

// What is explored: starts, the lengths of sequences, and f for faults.
var (
	exploreShort = []string{"one0 1f", "two0 1f", "was0 1f"}
	exploreTest  = []string{"one0 2f", "one1 1f", "one3 1f", "was0 1f", "was4 1f", "one0 3"}
	exploreLong  = []string{
		"one0 2f", "one1 2f", "one2 2f", "one3 2f", "one4 2f", "one5 2f", "two0 2f", "two1 2f", "two2 2f", "two3 2f", "two4 2f", "two5 2f",
		"was0 2f", "was1 2f", "was2 2f", "was3 2f", "was4 2f", "was5 2f",
		"one0 3f", "two0 3f", "one0 4", "two0 4",
		"one1 3f", "one2 3f", "one3 3f", "one4 3f", "one5 3f", "two1 3f", "two2 3f", "two3 3f", "two4 3f", "two5 3f",
		"one0 4f", "two0 4f",
	}
)

// TestExplore runs every short sequence of operations on two volumes and two hosts, with
// collectors that stop between their steps, and with a fault at each request: see
// docs/simulator.md. GLIDE_EXPLORE replays one case ("one0 W1g R1 / 0 2 late"), or runs
// what follows a start ("one0 3f": depth 3 with faults; "one0 3": without; "one0 4f/50":
// every 50th sequence), for as long as GLIDE_SOAK says.
func TestExplore(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // most of what a run makes lives as long as the run
	x := &explorer{t: t, states: map[uint64]bool{}}
	plan := exploreTest
	if testing.Short() {
		plan = exploreShort
	}
	if os.Getenv("GLIDE_LONG") != "" {
		plan, x.until = exploreLong, time.Now().Add(time.Hour)
	}
	if d, err := time.ParseDuration(os.Getenv("GLIDE_SOAK")); err == nil {
		x.until = time.Now().Add(d)
	}
	if s := os.Getenv("GLIDE_EXPLORE"); s != "" {
		c := parseExploreCase(s)
		if !strings.ContainsAny(c.ops[0][:1], "1234") {
			if out := explore(&c); out.wrong != "" {
				t.Fatal(out.wrong)
			}
			return
		}
		plan = []string{s}
	}
	for _, p := range plan {
		start, depth, _ := strings.Cut(p, " ")
		depth, every, _ := strings.Cut(depth, "/")
		nth, _ := strconv.Atoi(every)
		x.all(start, int(depth[0]-'0'), strings.HasSuffix(depth, "f"), max(nth, 1))
	}
	t.Logf("%d sequences, %d runs with a fault, %d distinct states, %d violations", x.ran.Load(), x.faulty.Load(), len(x.states), x.failed.Load())
}
