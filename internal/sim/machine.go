package sim

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

const dataDir = "/data"

// machine is a computer on which a host runs, again after each crash.
type machine struct {
	w     *world
	index int

	mu    sync.Mutex
	d     *disk
	life  int
	h     *host.Host // nil while it is down
	up    bool
	drift time.Duration // its clock is ahead by

	asleep   chan struct{} // suspended until closed; nil: not
	noStore  time.Time     // cut off from the store until
	path     time.Duration // that requests take longer, each way
	badSyncs int           // syncs of the log that will fail
	ops      int           // file operations and requests in this life
	syncs    map[string]uint64
	crashAt  int // the operation at which the power goes
	keep     int
	lose     bool // the disk goes with it
	booted   time.Time
	down     time.Duration
	ended    bool            // for good
	ctx      context.Context // of this life's verbs
	cancel   context.CancelFunc
	users    *sync.WaitGroup // verbs and guests of this life
	leaving  bool            // it is being stopped: nobody may begin anything

	// Under world.mu.
	hadBadSync, stopping, rotten bool
	// lostPages: it shows what a failed sync gave up, until its power goes.
	lostPages bool
	lifeNow   int
}

func newMachine(w *world, i int) *machine {
	return &machine{w: w, index: i, d: emptyDisk(), booted: time.Now()}
}

// emptyDisk has the data directory that an operator made, and nothing else.
func emptyDisk() *disk {
	d := newDisk()
	f := &files{d: d, before: func(fileOp, string) error { return nil }}
	_ = f.MkdirAll(dataDir, 0o755)
	d.root.settle()
	return d
}

// awake returns when the machine is not suspended.
func (m *machine) awake() {
	for {
		m.mu.Lock()
		ch := m.asleep
		m.mu.Unlock()
		if ch == nil {
			return
		}
		<-ch
	}
}

func (m *machine) suspended() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asleep != nil
}

func (m *machine) alive(life int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life == life && m.up
}

// ifAlive changes the model if that life is not over: what a host says after its
// crash was never heard.
func (m *machine) ifAlive(life int, change func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != life || !m.up {
		return false
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	change()
	return true
}

// use is somebody's use of the host that runs: a daemon lets requests end before
// it closes its host.
type use struct {
	h    *host.Host // nil if none runs
	life int
	ctx  context.Context
	end  func()
}

// use begins one; it has to be ended.
func (m *machine) use() use {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up || m.h == nil || m.leaving {
		return use{life: m.life, end: func() {}}
	}
	m.users.Add(1)
	return use{m.h, m.life, m.ctx, m.users.Done}
}

func (m *machine) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up && m.h != nil
}

func (m *machine) cutOff() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.noStore)
}

// now is the machine's clock.
func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.drift)
}

// uptime is the machine's other clock: it is not set, and runs while the machine
// is suspended.
func (m *machine) uptime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.booted)
}

// tick counts what the host does to the world around it, and crashes it when its
// turn has come. It tells whether that life is over.
func (m *machine) tick(life int, where string) (over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != life || !m.up {
		return true
	}
	if m.ops++; m.ops == m.crashAt {
		m.crashLocked(where)
		return true
	}
	return false
}

// before is what every file operation of one life goes through. A life that is
// over goes on writing to a disk that nobody will see again.
func (m *machine) before(life int) func(fileOp, string) error {
	return func(op fileOp, name string) error {
		m.w.spin(name)
		m.awake()
		if m.tick(life, string(op)+" "+name) || op != fileSync {
			return nil
		}
		m.mu.Lock()
		m.syncs[name]++
		d := dice{draw(m.w.seed, name, uint64(m.index), uint64(life), m.syncs[name])}
		fails := m.badSyncs > 0 && strings.HasPrefix(name, dataDir+"/wal/") && strings.HasSuffix(name, ".seg")
		if fails {
			m.badSyncs--
		}
		m.mu.Unlock()
		time.Sleep(d.around(400 * time.Microsecond))
		m.awake()
		if m.tick(life, "synced "+name) {
			return nil
		}
		if fails {
			m.w.note(func(*world) { m.hadBadSync, m.lostPages = true, true })
			m.w.trace("h%d: %s could not be synced", m.index, name)
			return syscall.EIO
		}
		return nil
	}
}

// failSyncs makes the next syncs of the log fail.
func (m *machine) failSyncs(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.badSyncs = n
}

// crashLocked takes the power. Under mu.
func (m *machine) crashLocked(where string) {
	d := dice{draw(m.w.seed, "crash", uint64(m.index), uint64(m.life))}
	m.w.trace("h%d: crash of life %d at operation %d, %s; %d%% kept", m.index, m.life, m.ops, where, m.keep)
	if m.d = m.d.crash(m.keep, &d); m.lose {
		m.d = emptyDisk()
	}
	m.booted = time.Now()
	m.w.background(m.leave())
	m.w.lost(m)
	if m.lose {
		m.lose = false
		m.w.buried(m)
	}
	down := m.down
	m.w.background(func() {
		time.Sleep(down)
		m.start()
	})
}

// leave ends the life; what it returns waits for those who use its host, and
// closes it: nothing of that reaches the world. Under mu.
func (m *machine) leave() func() {
	old, users := m.h, m.users
	m.cancel()
	m.h, m.up, m.crashAt, m.leaving = nil, false, 0, false
	return func() {
		users.Wait()
		if old != nil {
			_ = old.Close(context.Background())
		}
	}
}

// crash takes the power now, or at the n-th operation from now.
func (m *machine) crash(n, keep int, down time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up {
		return
	}
	m.keep, m.down = keep, down
	if n == 0 {
		m.crashLocked("between operations")
		return
	}
	m.crashAt = m.ops + n
}

// grace is how long a daemon that stops waits for its requests.
const grace = 20 * time.Second

// stop ends the host as SIGTERM does.
func (m *machine) stop() {
	m.mu.Lock()
	if !m.up || m.h == nil || m.leaving {
		m.mu.Unlock()
		return
	}
	m.leaving = true
	h, life, users, cancel := m.h, m.life, m.users, m.cancel
	m.mu.Unlock()
	m.w.closing(m)
	t := time.AfterFunc(grace, cancel)
	users.Wait()
	t.Stop()
	ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	err := h.Close(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != life || !m.up {
		return
	}
	cancel()
	m.h, m.up, m.crashAt, m.leaving = nil, false, 0, false
	m.w.trace("h%d: stopped: %v", m.index, kind(err))
	m.w.lost(m)
}

// start begins the machine's next life.
func (m *machine) start() {
	m.mu.Lock()
	if m.up || m.ended {
		m.mu.Unlock()
		return
	}
	m.life++
	m.up, m.ops, m.syncs, m.users = true, 0, map[string]uint64{}, &sync.WaitGroup{}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.badSyncs = 0
	life, d := m.life, m.d
	m.mu.Unlock()
	m.w.note(func(*world) { m.hadBadSync, m.lifeNow = false, life })
	h, err := host.Open(context.Background(), m.config(life, d))
	m.mu.Lock()
	over := m.life != life || !m.up
	switch {
	case over:
	case err != nil:
		m.up = false
	default:
		m.h = h
	}
	m.mu.Unlock()
	switch {
	case over && err == nil: // it crashed while it was opening
		m.w.background(func() { _ = h.Close(context.Background()) })
	case over:
	case err != nil && m.isRotten():
		m.w.trace("h%d: lost to rot: %v", m.index, kind(err))
	case err != nil:
		m.w.violate(flushIsDurable, "host %d does not open again: %v", m.index, err)
	default:
		m.w.trace("h%d: life %d", m.index, life)
		m.w.restarted(m, h, life)
	}
}

func (m *machine) isRotten() (yes bool) {
	m.w.note(func(*world) { yes = m.rotten })
	return yes
}

// heal takes away what troubles the machine.
func (m *machine) heal() {
	m.mu.Lock()
	m.crashAt, m.badSyncs, m.noStore = 0, 0, time.Time{}
	m.mu.Unlock()
}

// end ends the machine for good.
func (m *machine) end() {
	m.mu.Lock()
	m.ended = true
	if !m.up {
		m.mu.Unlock()
		return
	}
	done := m.leave()
	m.mu.Unlock()
	done()
}

func (m *machine) config(life int, d *disk) host.Config {
	p := &m.w.params
	store := objstore.Count(&link{w: m.w, m: m, life: life, seen: map[string]uint64{}}, &objstore.Counter{})
	return host.Config{
		Data: dataDir, FS: &files{d: d, before: m.before(life)},
		Store:     objstore.Retry(store, objstore.RetryOptions{Rand: func() float64 { return 0.5 }}),
		Advertise: string(rune('a' + m.index)),
		Memory:    p.memory, Cache: host.Share{Bytes: p.cache}, WALLimit: host.Share{Bytes: p.walLimit},
		DirtyBudget: p.dirtyBudget, PackBlocks: p.packBlocks, Compression: pack.CompressionNone,
		Dial:      func(addr string) (host.Peer, error) { return peer{m, life, m.w.machines[addr[0]-'a']}, nil },
		FoldAfter: p.foldAfter, BulkBytes: p.bulk, RollAt: p.rollAt,
		Log: slog.New(journal{m: m, life: life}),
		Now: m.now, Uptime: m.uptime, Rand: &lockedReader{r: entropy(draw(m.w.seed, "entropy", uint64(m.index), uint64(life)))},
	}
}

// lockedReader is a source of randomness for several goroutines.
type lockedReader struct {
	mu sync.Mutex
	r  interface{ Read([]byte) (int, error) }
}

func (r *lockedReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Read(p)
}

// suspend stops the machine for a while, as the lid of a laptop does.
func (m *machine) suspend(d time.Duration) {
	m.mu.Lock()
	if m.asleep != nil {
		m.mu.Unlock()
		return
	}
	ch := make(chan struct{})
	m.asleep = ch
	m.mu.Unlock()
	time.Sleep(d)
	m.mu.Lock()
	m.asleep = nil
	m.mu.Unlock()
	close(ch)
}

// peer is another host, over a network that can be cut.
type peer struct {
	from *machine
	life int
	to   *machine
}

// Host implements ownership.Peer.
func (p peer) Host(ctx context.Context) (api.Host, error) {
	u := p.to.use()
	if !p.from.alive(p.life) || u.h == nil || p.from.w.parted(p.from, p.to) {
		return api.Host{}, errs.New(errs.Unavailable, "host %d does not answer", p.to.index)
	}
	return u.h.Host(ctx)
}

// Close implements ownership.Peer.
func (peer) Close() {}

// Blocks implements peers.Peer. The simulated hosts exchange no blocks.
func (peer) Blocks(context.Context, api.BlocksRequest, func(int, []byte) error) error {
	return errs.New(errs.Unavailable, "no blocks are exchanged")
}

// Release implements ownership.Peer.
func (p peer) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	w := p.from.w
	d := dice{draw(w.seed, "release "+name, uint64(p.from.index), uint64(p.to.index), r.Epoch, uint64(p.life))}
	unreachable := errs.New(errs.Unavailable, "host %d does not answer", p.to.index)
	wait := func() error {
		t := time.NewTimer(d.around(3 * time.Millisecond))
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "no answer: %w", ctx.Err())
		}
	}
	if err := wait(); err != nil {
		return api.Volume{}, err
	}
	u := p.to.use()
	if !p.from.alive(p.life) || u.h == nil || w.parted(p.from, p.to) {
		u.end()
		return api.Volume{}, unreachable
	}
	type answer struct {
		v   api.Volume
		err error
	}
	got := make(chan answer, 1)
	w.background(func() {
		defer u.end()
		p.to.awake()
		if d.chance(150) { // it arrives late, and nobody waits
			time.Sleep(d.around(20 * time.Second))
		}
		w.asked(p.to, name, r)
		// Nothing of the asker's context goes over the network but its end.
		rctx, cancel := context.WithCancel(u.ctx)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		late := w.isLate(ctx, p.to, u.h, name, r.Epoch)
		v, err := u.h.Release(rctx, name, r)
		late(err)
		w.answered(p.to, u.life, name, r, err)
		w.trace("h%d: release of %s for h%d: %v", p.to.index, name, p.from.index, kind(err))
		got <- answer{v, err}
	})
	select {
	case a := <-got:
		if err := wait(); err != nil || w.parted(p.from, p.to) || !p.to.alive(u.life) || d.chance(30) {
			return api.Volume{}, unreachable
		}
		return a.v, a.err
	case <-ctx.Done():
		return api.Volume{}, errs.New(errs.Unavailable, "no answer: %w", ctx.Err())
	}
}

// journal makes what a host logs part of the trace.
type journal struct {
	m     *machine
	life  int
	attrs string
}

func (j journal) Enabled(context.Context, slog.Level) bool { return true }

func (j journal) Handle(_ context.Context, r slog.Record) error {
	text := r.Message + j.attrs
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	j.m.w.trace("h%d.%d: %s", j.m.index, j.life, strings.ReplaceAll(text, "\n", "; "))
	return nil
}

func (j journal) WithAttrs(as []slog.Attr) slog.Handler {
	for _, a := range as {
		j.attrs += " " + a.String()
	}
	return j
}

func (j journal) WithGroup(string) slog.Handler { return j }
