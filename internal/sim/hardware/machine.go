package hardware

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/sim/dice"
)

const dataDir = "/data"

// Machine is a computer on which a host runs, again after each crash.
type Machine struct {
	index   int
	seed    uint64
	world   World
	store   objstore.Store
	weather *Weather

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
}

// Options say what a machine is.
type Options struct {
	Index   int
	Seed    uint64
	World   World
	Store   objstore.Store
	Weather *Weather // on the way to the store; it may change
}

// New returns a machine that is off, with an empty disk.
func New(o Options) *Machine {
	return &Machine{index: o.Index, seed: o.Seed, world: o.World, store: o.Store, weather: o.Weather, d: emptyDisk(), booted: time.Now()}
}

// emptyDisk has the data directory that an operator made, and nothing else.
func emptyDisk() *disk {
	d := newDisk()
	f := &files{d: d, before: func(fileOp, string) error { return nil }}
	_ = f.MkdirAll(dataDir, 0o755)
	d.root.settle()
	return d
}

// Awake returns when the machine is not suspended.
func (m *Machine) Awake() {
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

// Suspended tells whether the machine is suspended.
func (m *Machine) Suspended() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asleep != nil
}

// Alive tells whether that life is not over.
func (m *Machine) Alive(life int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life == life && m.up
}

// IfAlive calls do unless that life is over: what a host says after its crash was
// never heard. The machine's lock is held meanwhile.
func (m *Machine) IfAlive(life int, do func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != life || !m.up {
		return false
	}
	do()
	return true
}

// Use is somebody's use of the host that runs: a daemon lets requests end before
// it closes its host.
type Use struct {
	Host *host.Host // nil if none runs
	Life int
	Ctx  context.Context
	End  func()
}

// Use begins one; it has to be ended.
func (m *Machine) Use() Use {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up || m.h == nil || m.leaving {
		return Use{Life: m.life, End: func() {}}
	}
	m.users.Add(1)
	return Use{m.h, m.life, m.ctx, m.users.Done}
}

// IsUp tells whether its host runs.
func (m *Machine) IsUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up && m.h != nil
}

// Life is the number of its life, or of the last one while it is down.
func (m *Machine) Life() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

// CutOff cuts the machine off from the store for a while.
func (m *Machine) CutOff(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noStore = time.Now().Add(d)
}

func (m *Machine) cutOff() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.noStore)
}

// SetFarther makes requests take so much longer, each way.
func (m *Machine) SetFarther(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.path = d
}

func (m *Machine) farther() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.path
}

// Drift puts the machine's clock forward.
func (m *Machine) Drift(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drift += d
}

// now is the machine's clock.
func (m *Machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.drift)
}

// uptime is the machine's other clock: it is not set, and runs while the machine
// is suspended.
func (m *Machine) uptime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.booted)
}

// tick counts what the host does to the world around it, and crashes it when its
// turn has come. It tells whether that life is over.
func (m *Machine) tick(life int, where string) (over bool) {
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
func (m *Machine) before(life int) func(fileOp, string) error {
	return func(op fileOp, name string) error {
		m.world.Operation(name)
		m.Awake()
		if m.tick(life, string(op)+" "+name) || op != fileSync {
			return nil
		}
		m.mu.Lock()
		m.syncs[name]++
		d := dice.New(m.seed, name, uint64(m.index), uint64(life), m.syncs[name])
		fails := m.badSyncs > 0 && strings.HasPrefix(name, dataDir+"/wal/") && strings.HasSuffix(name, ".seg")
		if fails {
			m.badSyncs--
		}
		m.mu.Unlock()
		time.Sleep(d.Around(400 * time.Microsecond))
		m.Awake()
		if m.tick(life, "synced "+name) {
			return nil
		}
		if fails {
			m.world.SyncFailed()
			m.world.Trace("h%d: %s could not be synced", m.index, name)
			return syscall.EIO
		}
		return nil
	}
}

// FailSyncs makes the next syncs of the log fail.
func (m *Machine) FailSyncs(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.badSyncs = n
}

// crashLocked takes the power. Under mu.
func (m *Machine) crashLocked(where string) {
	d := dice.New(m.seed, "crash", uint64(m.index), uint64(m.life))
	m.world.Trace("h%d: crash of life %d at operation %d, %s; %d%% kept", m.index, m.life, m.ops, where, m.keep)
	if m.d = m.d.crash(m.keep, &d); m.lose {
		m.d = emptyDisk()
	}
	m.booted = time.Now()
	m.world.Go(m.leave())
	m.world.Lost()
	if m.lose {
		m.lose = false
		m.world.Buried()
	}
	down := m.down
	m.world.Go(func() {
		time.Sleep(down)
		m.Start()
	})
}

// leave ends the life; what it returns waits for those who use its host, and
// closes it: nothing of that reaches the world. Under mu.
func (m *Machine) leave() func() {
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

// Crash takes the power now, or at the n-th operation from now.
func (m *Machine) Crash(n, keep int, down time.Duration) {
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

// Lose takes the power now, and the disk with it. It tells whether the machine was up.
func (m *Machine) Lose(down time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up {
		return false
	}
	m.keep, m.down, m.lose = 0, down, true
	m.crashLocked("with its disk")
	return true
}

// grace is how long a daemon that stops waits for its requests.
const grace = 20 * time.Second

// Stop ends the host as SIGTERM does.
func (m *Machine) Stop() {
	m.mu.Lock()
	if !m.up || m.h == nil || m.leaving {
		m.mu.Unlock()
		return
	}
	m.leaving = true
	h, life, users, cancel := m.h, m.life, m.users, m.cancel
	m.mu.Unlock()
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
	m.world.Trace("h%d: stopped: %v", m.index, Kind(err))
	m.world.Lost()
}

// Start begins the machine's next life.
func (m *Machine) Start() {
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
	m.world.Began()
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
	case !over:
		m.world.Opened(h, life, err)
	case err == nil: // it crashed while it was opening
		m.world.Go(func() { _ = h.Close(context.Background()) })
	}
}

// Heal takes away what troubles the machine.
func (m *Machine) Heal() {
	m.mu.Lock()
	m.crashAt, m.badSyncs, m.noStore = 0, 0, time.Time{}
	m.mu.Unlock()
}

// End ends the machine for good.
func (m *Machine) End() {
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

// Store is the store as a process reaches it that runs on the machine in that life.
func (m *Machine) Store(life int) objstore.Store {
	store := objstore.Count(&link{m: m, life: life, seen: map[string]uint64{}}, &objstore.Counter{})
	return objstore.Retry(store, objstore.RetryOptions{Rand: func() float64 { return 0.5 }})
}

// config is the world's, on what the machine has.
func (m *Machine) config(life int, d *disk) host.Config {
	c := m.world.Config(life)
	c.Data, c.FS = dataDir, &files{d: d, before: m.before(life)}
	c.Store = m.Store(life)
	c.Log = slog.New(journal{m: m, life: life})
	c.Now, c.Uptime = m.now, m.uptime
	c.Rand = &lockedReader{r: dice.Entropy(m.seed, uint64(m.index), uint64(life))}
	return c
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

// Suspend stops the machine for a while, as the lid of a laptop does.
func (m *Machine) Suspend(d time.Duration) {
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

// journal makes what a host logs part of the trace.
type journal struct {
	m     *Machine
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
	j.m.world.Trace("h%d.%d: %s", j.m.index, j.life, strings.ReplaceAll(text, "\n", "; "))
	return nil
}

func (j journal) WithAttrs(as []slog.Attr) slog.Handler {
	for _, a := range as {
		j.attrs += " " + a.String()
	}
	return j
}

func (j journal) WithGroup(string) slog.Handler { return j }

// Rot changes a bit of a log segment, or some bits of a cached block. It returns which: the
// directory of the file, wal or slabs; "" if there is no such file.
func (m *Machine) Rot(d *dice.Dice) (dir string) {
	m.mu.Lock()
	dk, down := m.d, !m.up
	m.mu.Unlock()
	dk.mu.Lock()
	defer dk.mu.Unlock()
	dir = "slabs"
	if down && d.Chance(500) {
		dir = "wal" // of a host that runs, the page cache has what it wrote
	}
	data := dk.root.entries[strings.TrimPrefix(dataDir, "/")]
	if data == nil || data.entries[dir] == nil {
		return ""
	}
	names := slices.Sorted(maps.Keys(data.entries[dir].entries))
	if len(names) == 0 {
		return ""
	}
	file := data.entries[dir].entries[names[d.N(len(names))]]
	if !file.rot(d) {
		return ""
	}
	if dir == "slabs" {
		for range 8 {
			file.rot(d)
		}
	}
	return dir
}
