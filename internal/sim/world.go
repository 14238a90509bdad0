package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/internal/sim/tenant"
)

// params are what a seed chooses for a whole run.
type params struct {
	machines, steps, volumes int
	pace                     time.Duration // mean time between steps
	memory, cache, walLimit  int64
	dirtyBudget              uint64
	packBlocks               int
	foldAfter, rollAt        uint64
	bulk                     int64
	retention                time.Duration // 0: nothing is collected
	sealed                   bool          // the tenant has keys
	rot                      bool
	badDisk                  bool
}

// world is one run: machines, a store, a schedule and a model of what has to be
// true.
type world struct {
	seed     uint64
	params   params
	weather  hardware.Weather
	out      io.Writer
	store    objstore.Store
	machines []*machine
	bg       sync.WaitGroup // everything that was begun
	verbs    sync.WaitGroup // verbs under way
	slots    chan struct{}
	tenant   *tenant.Tenant // of all volumes
	pages    *blockmap.PageCache
	reader   reader
	began    time.Time

	tmu  sync.Mutex
	hash interface {
		Sum64() uint64
		io.Writer
	}
	events int

	mu        sync.Mutex // the model; taken behind a machine's
	lines     []*line
	logs      map[string]*volumeLog
	pins      map[string]pinobject.Pin
	trees     map[rootKey]*tree
	blocks    map[pack.Hash]image
	kept      map[rootKey]bool
	open      map[rootKey]bool // what commits of epochs that have no successor name
	names     int
	stampNext uint64
	step      int
	calm      time.Time // the store is out until then
	troubled  bool      // the store was out of reach at some time
	partedTo  time.Time // hosts are apart until then
	partedBy  uint64
	landing   sync.WaitGroup // requests that will still take effect
	flipped   int
	rotten    bool
	takenBack []string // packs that somebody took back
	ending    bool
	violation *violation
	stats     map[string]int
	result    *result

	ops      atomic.Int64 // file operations of all hosts
	done     chan struct{}
	quitting sync.Once
	finished atomic.Bool
}

// maxOps bounds the file operations of one run; most need a few thousand.
const maxOps = 50_000

// spin is called for each of them.
func (w *world) spin(name string) {
	switch n := w.ops.Add(1); {
	case n == maxOps:
		w.violate(bounded, "%d file operations, and no end is in sight (%s)", n, name)
		w.quit()
		fallthrough
	case n > maxOps:
		select {}
	}
}

// quit lets runSeed return.
func (w *world) quit() { w.quitting.Do(func() { close(w.done) }) }

// options say how to run a schedule.
type options struct {
	Seed  uint64
	Steps []int     // of the schedule; nil: all
	Calm  bool      // requests meet no trouble but that of the steps
	Out   io.Writer // what happens is told here; nil: nowhere
}

// result is what a run was.
type result struct {
	Violation *violation
	Endless   bool   // something goes round and round, or hangs
	Trace     uint64 // hash of everything that happened
	Events    int
	Steps     int // of the whole schedule
	Stats     map[string]int
}

func chooseParams(seed uint64) (p params, wx hardware.Weather) {
	d := dice.New(seed, "params")
	p = params{
		machines: 2 + d.N(2), steps: 40 + d.N(50), volumes: 2 + d.N(4),
		pace:   []time.Duration{time.Millisecond, 5 * time.Millisecond, 40 * time.Millisecond}[d.N(3)],
		memory: 256 << 10, cache: []int64{1 << 20, 200 << 20}[d.N(2)],
		walLimit: 32 * 64 << 10 << d.N(2), dirtyBudget: 128 << 10 << d.N(4), packBlocks: []int{1, 2, 25}[d.N(3)],
	}
	switch d.N(4) {
	case 0: // calm
	case 1:
		wx = hardware.Weather{Before: d.N(20), After: d.N(20), Late: d.N(20), Slow: d.N(10), Twice: d.N(50)}
	default:
		wx = hardware.Weather{Before: d.N(100), After: d.N(100), Late: d.N(100), Slow: d.N(60), Twice: d.N(100)}
	}
	if d.Chance(150) {
		wx.Flip = 10 + d.N(50)
	}
	p.rot, p.badDisk = d.Chance(150), d.Chance(250)
	p.foldAfter, p.rollAt = []uint64{2, 5, 0}[d.N(3)], []uint64{4, 8, 0}[d.N(3)]
	p.bulk = []int64{1, 64 << 10, 0}[d.N(3)]
	p.retention = chooseRetention(seed)
	p.sealed = chooseSealed(seed)
	return p, wx
}

// runSeed runs the schedule of a seed. It has to be called in a bubble of
// testing/synctest, of a binary that was built with the overlay.
//
// r has the violation from the moment it is found: a run in which something goes
// round and round for ever ends with a deadlock.
func runSeed(o options, r *result) {
	w := newWorld(o)
	w.result = r
	r.Steps = w.params.steps
	go w.run(o.Steps)
	<-w.done
	r.Endless = !w.finished.Load()
}

func (w *world) run(steps []int) {
	defer w.quit()
	for i := range w.params.machines {
		w.machines = append(w.machines, newMachine(w, i))
	}
	for _, m := range w.machines {
		m.Start()
	}
	if steps == nil {
		for i := range w.params.steps {
			steps = append(steps, i)
		}
	}
	for _, i := range steps {
		if w.failed() {
			break
		}
		w.take(i)
	}
	w.finish()
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.result = result{Violation: w.violation, Trace: w.hash.Sum64(), Events: w.events, Steps: w.params.steps, Stats: w.stats}
	w.finished.Store(true)
}

func newWorld(o options) *world {
	w := &world{
		seed: o.Seed, out: o.Out, hash: fnv.New64a(), began: time.Now(), slots: make(chan struct{}, 6),
		logs: map[string]*volumeLog{}, pins: map[string]pinobject.Pin{}, trees: map[rootKey]*tree{}, blocks: map[pack.Hash]image{},
		stats: map[string]int{}, done: make(chan struct{}),
	}
	w.params, w.weather = chooseParams(o.Seed)
	if o.Calm {
		w.weather = hardware.Weather{}
	}
	w.store = objstore.NewMem(objstore.Clock{})
	w.tenant = tenant.Plain(w.store, tenantName)
	if w.params.sealed {
		w.tenant = w.sealTenant()
	}
	w.pages, w.reader = blockmap.NewPageCache(4<<20), reader{w}
	wx := &w.weather
	w.trace("params %+v weather {before:%d after:%d late:%d slow:%d twice:%d flip:%d}", w.params, wx.Before, wx.After, wx.Late, wx.Slow, wx.Twice, wx.Flip)
	return w
}

// trace notes what happened: two runs of one seed are the same if their traces are.
func (w *world) trace(format string, args ...any) {
	w.tmu.Lock()
	defer w.tmu.Unlock()
	w.events++
	line := fmt.Sprintf("%12s "+format+"\n", append([]any{time.Since(w.began)}, args...)...)
	_, _ = io.WriteString(w.hash, line)
	if w.out != nil {
		_, _ = io.WriteString(w.out, line)
	}
}

func (w *world) violate(i invariant, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violateLocked(i, format, args...)
}

func (w *world) violateLocked(i invariant, format string, args ...any) {
	v := &violation{Invariant: string(i), Seed: w.seed, Step: w.step, Text: fmt.Sprintf(format, args...)}
	w.trace("VIOLATION %v", v)
	if w.violation == nil {
		w.violation, w.result.Violation = v, v
	}
}

func (w *world) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.violation != nil
}

// note changes the model.
func (w *world) note(change func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

func (w *world) background(do func()) { w.bg.Go(do) }

// later lets a request take effect long after its sender stopped waiting.
func (w *world) later(what string, d time.Duration, apply func() error) {
	w.landing.Add(1)
	time.AfterFunc(d, func() {
		defer w.landing.Done()
		w.trace("late: %s: %v", what, hardware.Kind(apply()))
	})
}

func (w *world) outage() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outageLocked()
}

func (w *world) outageLocked() bool { return time.Now().Before(w.calm) }

// parted tells whether two hosts cannot reach each other.
func (w *world) parted(a, b *machine) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.partedTo) && (w.partedBy>>a.index&1) != (w.partedBy>>b.index&1)
}

// take takes a step: it waits for its time, and lets it run beside those that
// are under way.
func (w *world) take(i int) {
	d := dice.New(w.seed, "step", uint64(i))
	gap := d.Around(w.params.pace)
	if d.Chance(30) {
		gap = d.Around(time.Hour)
	}
	time.Sleep(gap)
	select {
	case w.slots <- struct{}{}:
	case <-time.After(verbTimeout):
		w.violate(progress, "six verbs hang")
		w.quit()
		select {}
	}
	w.note(func(w *world) { w.step = i })
	op := choose(&d)
	if w.overtakes(i) {
		op = &overtake
	}
	if c := w.collects(i); c != nil {
		op = c
	}
	if k := w.turnsKeys(i); k != nil {
		op = k
	}
	if i < 2 {
		op = &ops[0] // there has to be something
	}
	w.trace("step %d: %s", i, op.name)
	w.verbs.Go(func() {
		defer func() { <-w.slots }()
		done := op.run(w, &d)
		w.note(func(w *world) {
			if w.stats[op.name+" "+done]++; done != "" {
				w.stats[done]++
			}
		})
		w.trace("step %d: %s: %s", i, op.name, done)
	})
}

// verbTimeout is how long verbs may take: machines are suspended for days.
const verbTimeout = 90 * 24 * time.Hour

// patiently waits for a group.
func (w *world) patiently(g *sync.WaitGroup, what string) {
	t := time.AfterFunc(verbTimeout, func() {
		w.violate(progress, "%s hang", what)
		w.quit()
	})
	g.Wait()
	t.Stop()
}

// finish lets everything end, heals what is broken, and looks whether all is
// well: progress.
func (w *world) finish() {
	w.patiently(&w.verbs, "verbs")
	w.note(func(w *world) { w.ending, w.calm, w.partedTo = true, time.Time{}, time.Time{} })
	w.weather = hardware.Weather{}
	for _, m := range w.machines {
		m.Heal()
		m.keysBack()
	}
	w.landing.Wait()
	for !w.failed() {
		if w.allUp() {
			break
		}
		time.Sleep(time.Second)
	}
	if !w.failed() {
		w.epilogue()
		w.atRest()
	}
	w.note(func(w *world) { w.ending = true })
	for _, m := range w.machines {
		m.End()
	}
	w.patiently(&w.bg, "hosts that are being closed")
	w.landing.Wait()
}

func (w *world) allUp() bool {
	for _, m := range w.machines {
		if !m.IsUp() && !m.isRotten() {
			return false
		}
	}
	return true
}
