package host

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
)

const (
	explorePage  = 4096
	explorePages = 3
)

// content is what the pages of a volume hold, by seed; 0 is an empty page.
type content [explorePages]int

// The contents that a start leaves as garbage: of a pack that nothing reaches, and of a
// dead slot of a pack that something reaches.
const (
	garbagePage = 100
	deadPage    = 101
)

// pages are the pages by seed.
var pages = func() (all [120][]byte) {
	all[0] = make([]byte, explorePage)
	for seed := 1; seed < len(all); seed++ {
		all[seed] = random(uint64(seed), explorePage)
	}
	return all
}()

// slot is the model of one of the two volumes.
type slot struct {
	exists    bool
	at        int       // the host that has it
	live      content   // what it reads there
	stored    bool      // a publication was acknowledged
	may       []content // what the store may have of it; of a volume that may exist, what it may hold
	failed    byte      // the verb that failed and has to be repeated; 0: none
	host      int       // on which it failed
	from      int       // and the source, if it was a fork or a restoration
	unlearned bool      // that verb has not got further than enter
	gone      []content // what its newest removal took from the store; nil: it had nothing there
}

func (s *slot) may1(c content) bool { return slices.Contains(s.may, c) }

// machine is one of the two hosts.
type machine struct {
	mem  *vfs.MemFS
	left *vfs.MemFS // by a crash
	p    *process
	h    *Host
	life int
}

// explored is one run of a sequence.
type explored struct {
	store    objstore.Store
	machines [2]*machine
	steps    *steps
	slots    [2]slot
	fresh    int
	armed    func(*process) // arms the process that acts
	acting   *process
	lates    []*process // with requests that take effect later
	memory   *gc.Memory // of the collectors that run to their ends
	paused   error      // of the rounds during a pause
}

// violation is what a run panics with.
type violation string

func broken(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

func (w *explored) must(err error, format string, args ...any) {
	if err != nil {
		broken("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

func newExplored() *explored {
	w := &explored{store: objstore.NewMem(objstore.Clock{}), fresh: 1, memory: gc.NewMemory()}
	for i := range w.machines {
		m := &machine{mem: vfs.NewCrashableMem()}
		w.must(m.mem.MkdirAll(crashData, 0o755), "mkdir")
		for _, d := range []string{"/", ""} { // the directory itself is the operator's
			if f, err := m.mem.OpenDir(d); err == nil {
				w.must(f.Sync(), "sync")
			}
		}
		w.machines[i] = m
		w.open(i)
	}
	return w
}

// open starts a host's next life.
func (w *explored) open(i int) {
	m := w.machines[i]
	m.life++
	m.p = w.process()
	m.p.died = func() {
		// Power is not what is lost here: that the disk keeps what was synced is tested
		// elsewhere.
		m.left = m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	}
	h, err := Open(ctx, Config{
		Data: crashData, FS: m.mem, Store: m.p, Advertise: string("ab"[i]), NoPrefetch: true, PackBlocks: 4,
		Memory: 256 << 10, Cache: Share{Bytes: 256 << 10}, WALLimit: Share{Bytes: 1536 << 10}, Retention: time.Nanosecond,
		Rand: entropy(uint64(i)<<8 + uint64(m.life)), Uptime: hurried,
	})
	w.must(err, "starting host %d", i)
	m.h = h
}

func (w *explored) process() *process { return &process{Store: w.store, wait: w.pause} }

// pause is what happens while a request is on its way. It runs in any goroutine of the
// process that sent the request.
func (w *explored) pause(b blow) {
	if b != pause {
		if w.steps == nil {
			w.steps = newSteps(w.process())
		}
		w.steps.small = true
		for range slices.Index(shortBlows, b) - slices.Index(shortBlows, oneStep) + 1 {
			w.steps.step()
		}
		w.steps.small = false
		return
	}
	for range 3 {
		_, err := gc.Run(ctx, collectorOptions(w.store, nil))
		w.paused = errors.Join(w.paused, ignoreRace(err))
	}
}

// restart ends a host and starts it again, with what it had on its disk when it died.
func (w *explored) restart(i int) {
	m := w.machines[i]
	_ = m.h.Close(ctx)
	if m.left != nil {
		m.mem, m.left = m.left, nil
	}
	w.open(i)
}

// close ends what still runs.
func (w *explored) close() {
	if w.steps != nil {
		w.steps.finish()
	}
	for _, m := range w.machines {
		_ = m.h.Close(ctx)
	}
}

func slotName(v int) string { return fmt.Sprintf("v%d", v+1) }

func (w *explored) act(p *process) *process {
	if w.acting != p && w.armed != nil {
		w.armed(p)
	}
	w.acting = p
	return p
}

// on is the host that acts.
func (w *explored) on(i int) *Host {
	w.act(w.machines[i].p)
	return w.machines[i].h
}

func exploreWrite(h *Host, name string, before, after content) error {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return err
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	v, err := d.Wake(false)
	if err != nil {
		return err
	}
	for i := range after {
		if before[i] != after[i] {
			if err := v.WriteAt(pages[after[i]], uint64(i)*explorePage); err != nil {
				return err
			}
		}
	}
	return nil
}

func exploreRead(h *Host, name string) (content, error) {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return content{}, err
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	v, err := d.Wake(false)
	if err != nil {
		return content{}, err
	}
	b := make([]byte, explorePages*explorePage)
	if err := v.ReadAt(b, 0); err != nil {
		return content{}, err
	}
	return contentOf(b)
}

var knownPages = func() map[[8]byte]int {
	m := map[[8]byte]int{}
	for seed, page := range pages {
		m[[8]byte(page)] = seed
	}
	return m
}()

// contentOf recognizes what pages hold.
func contentOf(b []byte) (c content, err error) {
	for i := range c {
		page := b[i*explorePage:][:explorePage]
		seed, ok := knownPages[[8]byte(page)]
		if !ok {
			return c, errors.New("a page has what nobody wrote")
		}
		if !bytes.Equal(pages[seed], page) {
			return c, errors.New("a page is torn")
		}
		c[i] = seed
	}
	return c, nil
}

func publishedContent(store objstore.Store, name string) (content, error) {
	_, b, err := published(store, name)
	if err != nil {
		return content{}, err
	}
	return contentOf(b)
}

// write writes and flushes: a write alone makes no request, and its order among what is
// not about its volume makes no difference.
func (w *explored) write(v int, old bool) error {
	s, name := &w.slots[v], slotName(v)
	h := w.on(s.at)
	next := s.live
	if old {
		next[1], next[2] = garbagePage, deadPage
	} else {
		next[0] = w.fresh
		w.fresh++
	}
	if err := exploreWrite(h, name, s.live, next); err != nil {
		return err // it is not there
	}
	s.live = next
	s.may = append(s.may, next)
	return w.flush(v)
}

func (w *explored) flush(v int) error {
	s := &w.slots[v]
	if _, err := w.on(s.at).Flush(ctx, slotName(v)); err != nil {
		if s.failed == 0 {
			s.failed = 'W'
		}
		return err
	}
	s.stored, s.may = true, []content{s.live}
	if s.failed == 'W' {
		s.failed = 0
	}
	return nil
}

// create makes a volume on the first host that has garbage in it.
func (w *explored) create(v int) error {
	s, name := &w.slots[v], slotName(v)
	want := content{0, garbagePage, deadPage}
	h := w.on(0)
	if err := w.enter(v, 0, 'N'); err != nil {
		return err
	}
	s.failed, s.host, s.at, s.may = 'N', 0, 0, append(s.may, want)
	_, err := h.Create(ctx, api.CreateRequest{Name: name, Size: explorePages * explorePage, BlockSize: explorePage})
	if err != nil && !errors.Is(err, errs.Exists) {
		return err
	}
	if err := exploreWrite(h, name, content{}, want); err != nil {
		return err
	}
	if _, err := h.Flush(ctx, name); err != nil {
		return err
	}
	s.becomes(slot{exists: true, live: want, stored: true, may: []content{want}})
	return nil
}

// fork makes the other slot a fork of v, on a host.
func (w *explored) fork(v, host int, local bool) error {
	s, kid, verb := &w.slots[v], &w.slots[1-v], byte('F')
	if local {
		verb = 'S'
	}
	kid.from = v
	if err := w.enter(1-v, host, verb); err != nil {
		return err
	}
	kid.failed, kid.host, kid.at = verb, host, host
	if local {
		kid.may = append(kid.may, s.live)
	}
	kid.may = append(kid.may, s.may...)
	h := w.on(host)
	if err := w.learn(v, host); err != nil {
		return err
	}
	_, err := h.Fork(ctx, api.ForkRequest{Source: slotName(v), Name: slotName(1 - v), Lazy: true})
	if err != nil && !errors.Is(err, errs.Exists) {
		return err
	}
	c, err := w.readBack(h, slotName(1-v))
	if err != nil {
		return err
	}
	if !kid.may1(c) {
		broken("a fork has %v, its source %v", c, kid.may)
	}
	kid.becomes(slot{exists: true, at: host, live: c, stored: !local && s.at != host, may: []content{c}})
	return nil
}

// enter has a host learn what it does not know of a name, before it makes a volume with that
// name for the first time. If that fails, so does the verb.
func (w *explored) enter(v, host int, verb byte) error {
	s := &w.slots[v]
	if s.failed != 0 && !s.unlearned {
		return nil
	}
	err := w.learn(v, host)
	if s.unlearned = err != nil; err != nil {
		s.failed, s.host, s.at = verb, host, host
	}
	return err
}

// learn makes a host that had a volume before, and was not told that it was claimed, find
// that out, and forget the volume. Until then it would use its own state of it.
func (w *explored) learn(v, host int) error {
	h, name := w.machines[host].h, slotName(v)
	d, err := h.disks.Local(name, false)
	if s := &w.slots[v]; err != nil || s.exists && s.at == host {
		return nil
	}
	d.Op.Lock()
	_, err = h.publisher.Publish(ctx, d, commitlog.CauseFlush, func(*commitlog.State) {})
	d.Op.Unlock()
	if err != nil && errs.KindOf(err) == errs.Fenced {
		return h.Remove(ctx, name, true)
	}
	return err // none, if a claim that failed took effect
}

func (w *explored) remove(v int) error {
	s := &w.slots[v]
	if err := w.on(s.at).Remove(ctx, slotName(v), false); err != nil {
		if s.failed != 0 && s.failed != 'W' {
			return err // what failed before is repeated
		}
		s.failed, s.host = 'R', s.at
		return err
	}
	s.removed()
	return nil
}

// claim takes a volume over by force.
func (w *explored) claim(v, host int) error {
	s, name := &w.slots[v], slotName(v)
	if s.failed == 0 || s.failed == 'W' {
		s.failed, s.host = 'C', host
	}
	h := w.on(host)
	if err := w.learn(v, host); err != nil {
		return err
	}
	if _, err := h.Wake(ctx, name, true, ""); err != nil {
		return err
	}
	c, err := w.readBack(h, name)
	if err != nil {
		return err
	}
	if !s.may1(c) {
		broken("%s has %v after a claim, and may have %v", name, c, s.may)
	}
	s.becomes(slot{exists: true, at: host, live: c, stored: true, may: []content{c}})
	return nil
}

// settle is what a daemon does before it runs a round.
func (w *explored) settle() {
	for _, m := range w.machines {
		w.must(m.h.settleFormer(ctx), "settling what an earlier process left")
		m.h.pins.Release(ctx)
		if !m.h.disks.Unsettled() {
			w.must(m.h.publisher.Session.Rotate(ctx), "rotating a session")
		}
	}
}

// gcStep runs a collector to its next gate.
func (w *explored) gcStep() error {
	if w.steps == nil {
		w.settle()
		w.steps = newSteps(w.process())
	}
	w.act(w.steps.process)
	w.steps.step()
	if !w.steps.over {
		return nil
	}
	err := w.steps.err
	w.steps = nil
	return ignoreRace(err)
}

// ignoreRace: a collector may find that another one has removed what it was about to read.
func ignoreRace(err error) error {
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// gcWhole runs another collector to its end.
func (w *explored) gcWhole() error {
	w.settle()
	p := w.act(w.process())
	_, err := gc.Run(ctx, collectorOptions(p, w.memory))
	if _, struck := p.disarm(); struck != "" { // others ran meanwhile
		err = ignoreRace(err)
	}
	return err
}

// do does an operation.
func (w *explored) do(op string) error {
	if op == "G" {
		return w.gcStep()
	}
	if op == "H" {
		return w.gcWhole()
	}
	v := int(op[1] - '1')
	s := &w.slots[v]
	switch op[0] {
	case 'W':
		return w.write(v, strings.HasSuffix(op, "g"))
	case 'S':
		return w.fork(v, s.at, true)
	case 'D': // of a source with a write that was not flushed
		next := s.live
		next[0] = w.fresh
		w.fresh++
		if err := exploreWrite(w.machines[s.at].h, slotName(v), s.live, next); err != nil {
			return err
		}
		s.live, s.may = next, append(s.may, next)
		return w.fork(v, s.at, true)
	case 'F':
		return w.fork(v, 1-s.at, false)
	case 'R':
		return w.remove(v)
	case 'C':
		return w.claim(v, 1-s.at)
	case 'N':
		return w.create(v)
	case 'B':
		return w.restore(v, int(op[2]-'1'), int(op[3]-'a'))
	}
	panic("no such operation: " + op)
}
