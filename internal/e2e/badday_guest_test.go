package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// stamp fills a page with whose it is: the volume's number, the page's, and that
// of the write.
func stamp(b []byte, volume, at, n int) {
	for i := 0; i < page; i += 32 {
		binary.LittleEndian.PutUint64(b[i:], uint64(volume)+1)
		binary.LittleEndian.PutUint64(b[i+8:], uint64(at))
		binary.LittleEndian.PutUint64(b[i+16:], uint64(n))
		binary.LittleEndian.PutUint64(b[i+24:], ^uint64(n))
	}
}

// stampOf is the number of the write that a page shows, 0 for zeros.
func stampOf(b []byte, volume, at int) (int, error) {
	n := int(binary.LittleEndian.Uint64(b[16:]))
	want := make([]byte, page)
	if n != 0 {
		stamp(want, volume, at, n)
	}
	if string(want) != string(b) {
		return 0, fmt.Errorf("page %d of volume %d is torn, or another's: it begins with volume %d, page %d, write %d", at, volume,
			int(binary.LittleEndian.Uint64(b))-1, binary.LittleEndian.Uint64(b[8:]), n)
	}
	return n, nil
}

// guestPages is the size of a guest's volume.
const guestPages = 1024

// badGuest writes to one volume, one request at a time, and sends a write again
// that failed, as it was: so the volume is always as after some write, whatever happened.
type badGuest struct {
	day    *badDay
	number int
	name   string
	policy string
	rpo    time.Duration

	h         history // its ops are the writes; its lock guards what follows, too
	acked     []time.Time
	published int // writes that were acknowledged when a flush to the store began that succeeded
	conn      *tornConn

	// worked is when the newest write was sent that a flush made durable, and read when
	// a read was sent that was answered (nanoseconds of the Unix time).
	worked, read atomic.Int64
	lastError    atomic.Pointer[string]

	// What only its own goroutine uses.
	r       *rand.Rand
	now     []int // the write that each page shows
	pending bool  // the newest op was not answered
	life    int64 // of the daemon that answered; others read it under h's lock
}

// tornConn is a connection whose client vanishes in the middle of a request.
type tornConn struct {
	net.Conn
	tear atomic.Bool
}

func (c *tornConn) Write(b []byte) (int, error) {
	if c.tear.Load() {
		n, _ := c.Conn.Write(b[:len(b)/2])
		_ = c.Close()
		return n, errors.New("torn by the test")
	}
	return c.Conn.Write(b)
}

func (g *badGuest) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := g.session(ctx); err != nil {
			g.noteError(err)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

func (g *badGuest) noteError(err error) {
	s := time.Now().Format("15:04:05.000 ") + err.Error()
	g.lastError.Store(&s)
}

// session connects, checks what is there, and works until the connection breaks.
func (g *badGuest) session(ctx context.Context) error {
	life := g.day.life.Load()
	if life%2 != 0 {
		return errors.New("the daemon is being restarted")
	}
	nc, err := net.Dial("unix", g.day.d.nbd())
	if err != nil {
		return err
	}
	conn := &tornConn{Conn: nc}
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	c, err := nbdclient.New(ctx, conn, nbdclient.Options{Export: g.name})
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := g.readAll(c)
	if errors.Is(err, errBadContent) {
		g.day.fail("%s: %v", g.name, err)
	}
	if err != nil {
		return err
	}
	if g.day.life.Load() != life {
		return errors.New("the daemon was restarted")
	}
	if err := g.settle(got, life); err != nil {
		g.day.fail("%s: %v", g.name, err)
		return err
	}
	g.h.mu.Lock()
	g.conn = conn
	g.h.mu.Unlock()
	for ctx.Err() == nil {
		var refused *nbdclient.Error
		err := g.step(c)
		if err != nil && !errors.As(err, &refused) {
			return err
		}
		if err != nil {
			g.noteError(err)
			pause(ctx, 100*time.Millisecond)
		}
		pause(ctx, time.Duration(g.r.IntN(10))*time.Millisecond)
	}
	return nil
}

// errBadContent marks an answer that no write of the guest explains.
var errBadContent = errors.New("wrong content")

// readAll reads the volume and returns the write that each page shows.
func (g *badGuest) readAll(c *nbdclient.Client) ([]int, error) {
	got := make([]int, guestPages)
	b := make([]byte, 1<<20)
	for first := 0; first < guestPages; first += len(b) / page {
		if err := c.Read(b, uint64(first)*page); err != nil {
			return nil, err
		}
		for i := range len(b) / page {
			var err error
			if got[first+i], err = stampOf(b[i*page:][:page], g.number, first+i); err != nil {
				return nil, fmt.Errorf("%w: %v", errBadContent, err)
			}
		}
	}
	return got, nil
}

// settle checks what a volume has on a new connection. The daemon that answered the
// writes still shows all of them; one that started since shows those to some write,
// flushed ones at least, and the guest goes on from there.
func (g *badGuest) settle(got []int, life int64) error {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	least := g.h.answered
	if life != g.life {
		least = max(g.h.flushed, g.published)
		if g.day.stopped.Load() == life { // in good order
			least = g.h.answered
		}
	}
	n, err := g.h.match(got, least)
	if err != nil {
		return err
	}
	if life != g.life {
		g.h.ops, g.acked = g.h.ops[:n], g.acked[:min(n, len(g.acked))]
		g.h.answered, g.pending, g.life = n, false, life
		for len(g.acked) < n { // the newest took effect, and was not answered
			g.acked = append(g.acked, time.Now())
		}
	}
	g.now = got
	return nil
}

// step is a request, and what it says about the volume.
func (g *badGuest) step(c *nbdclient.Client) error {
	switch k := g.r.IntN(10); {
	case k == 0:
		return g.flush(c)
	case k < 3 && !g.pending:
		return g.check(c)
	}
	if !g.pending {
		o := op{pages: 1 + g.r.IntN(4), zero: g.r.IntN(8) == 0}
		if g.r.IntN(40) == 0 {
			o.pages = 64
		}
		o.first = g.r.IntN(guestPages - o.pages)
		g.h.add(o)
		g.pending = true
	}
	return g.write(c)
}

// write sends the newest op, perhaps again.
func (g *badGuest) write(c *nbdclient.Client) error {
	n := g.h.total()
	o := g.h.ops[n-1]
	q := nbdclient.Request{Op: nbd.OpWrite, Off: uint64(o.first) * page, Length: uint32(o.pages * page)}
	if o.zero {
		q.Op = []nbd.Op{nbd.OpTrim, nbd.OpZero}[n%2]
	} else {
		q.Data = make([]byte, o.pages*page)
		for i := range o.pages {
			stamp(q.Data[i*page:], g.number, o.first+i, n)
		}
	}
	if n%16 == 0 {
		q.Flags = nbdclient.FUA
	}
	sent := time.Now()
	if err := (<-c.Go(q)).Err; err != nil {
		return fmt.Errorf("write: %w", err)
	}
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	g.pending, g.h.answered = false, n
	g.acked = append(g.acked, time.Now())
	if q.Flags&nbdclient.FUA != 0 {
		g.h.flushed = n
		g.worked.Store(sent.UnixNano())
	}
	for i := range o.pages {
		g.now[o.first+i] = n
		if o.zero {
			g.now[o.first+i] = 0
		}
	}
	return nil
}

func (g *badGuest) flush(c *nbdclient.Client) error {
	g.h.mu.Lock()
	covers := g.h.answered
	g.h.mu.Unlock()
	if err := c.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	g.h.flushed = max(g.h.flushed, covers)
	return nil
}

// check reads a few pages, which show the newest writes.
func (g *badGuest) check(c *nbdclient.Client) error {
	first, b := g.r.IntN(guestPages-4), make([]byte, 4*page)
	sent := time.Now()
	if err := c.Read(b, uint64(first)*page); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for i := range 4 {
		n, err := stampOf(b[i*page:][:page], g.number, first+i)
		if err == nil && n != g.now[first+i] {
			err = fmt.Errorf("page %d shows write %d after write %d was acknowledged", first+i, n, g.now[first+i])
		}
		if err != nil {
			g.day.fail("%s: %v", g.name, err)
			return err
		}
	}
	g.read.Store(sent.UnixNano())
	return nil
}

// vanish has the guest go away in the middle of its next request.
func (g *badGuest) vanish() {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	if g.conn != nil {
		g.conn.tear.Store(true)
	}
}

// answered is how many writes were acknowledged.
func (g *badGuest) answered() int {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	return g.h.answered
}

// nowPublished notes that the store has so many writes.
func (g *badGuest) nowPublished(n int) {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	g.published = max(g.published, n)
}

// survived checks what another host found in the store after the guest's own was
// lost with its disk: as the policy promises.
func (g *badGuest) survived(got []int) error {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	least := g.published
	if g.policy == "sync" {
		least = max(least, g.h.flushed)
	}
	n, err := g.h.match(got, least)
	if err != nil {
		return err
	}
	if lost := g.h.answered - n; g.policy == "continuous" && lost > 0 {
		if span := g.acked[g.h.answered-1].Sub(g.acked[n]); span > g.rpo {
			return fmt.Errorf("%d acknowledged writes of %v are lost, its rpo is %v", lost, span, g.rpo)
		}
	}
	return nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// badVerbs runs verbs at random, on volumes of its own and those of the guests.
// Any may fail, with an error worth its name.
type badVerbs struct {
	day *badDay
	own string // prefix of its volumes
	r   *rand.Rand

	mu          sync.Mutex
	ok, refused int
}

func (v *badVerbs) run(ctx context.Context) {
	for ctx.Err() == nil {
		g := v.day.guests[v.r.IntN(len(v.day.guests))]
		x, f := fmt.Sprintf("%sx%d", v.own, v.r.IntN(4)), fmt.Sprintf("%sf%d", v.own, v.r.IntN(4))
		snap := fmt.Sprintf("%ss%d", v.own, v.r.IntN(3))
		policy := []string{"local", "local", "continuous", "sync"}[v.r.IntN(4)]
		switch v.r.IntN(16) {
		case 0:
			v.verb(ctx, "create", x, "--size", "1M", "--durability", policy)
		case 1:
			v.verb(ctx, "rm", []string{x, f}[v.r.IntN(2)])
		case 2:
			v.fork(ctx, g, f)
		case 3:
			v.verb(ctx, "snapshot", g.name, snap)
		case 4:
			v.verb(ctx, "rm", g.name+"@"+snap)
		case 5:
			v.flush(ctx, g)
		case 6:
			v.verb(ctx, "set", g.name, fmt.Sprintf("label.%s=%d", snap, v.r.IntN(1000)))
		case 7:
			v.verb(ctx, "set", x, "durability="+policy, "iops=1000")
		case 8:
			v.verb(ctx, "sleep", []string{f, x, g.name}[v.r.IntN(3)])
		case 9:
			v.verb(ctx, "wake", f)
		case 10:
			v.verb(ctx, "rollback", f, "1.1")
		case 11:
			v.verb(ctx, "fork", g.name+"@"+snap, f)
		case 12:
			v.verb(ctx, "rename", x, v.own+"x5")
		default:
			look := [][]string{{"ls"}, {"ls", "--all"}, {"df"}, {"df", g.name}, {"log", g.name}, {"show", g.name}, {"stats"}, {"snapshots", g.name}, {"hosts"}}
			v.verb(ctx, look[v.r.IntN(len(look))]...)
		}
		pause(ctx, time.Duration(v.r.IntN(200))*time.Millisecond)
	}
}

func (v *badVerbs) verb(ctx context.Context, args ...string) bool {
	r := v.day.verb(ctx, args...)
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Code == 0 {
		v.ok++
	} else {
		v.refused++
	}
	return r.Code == 0
}

func (v *badVerbs) flush(ctx context.Context, g *badGuest) {
	if n := g.answered(); v.verb(ctx, "flush", g.name) {
		g.nowPublished(n)
	}
}

// fork makes a fork and checks it: it is as the volume was after some write, and
// has all that were acknowledged before.
func (v *badVerbs) fork(ctx context.Context, g *badGuest, name string) {
	life := v.day.life.Load()
	g.h.mu.Lock()
	least, settled := g.h.answered, g.life == life
	g.h.mu.Unlock()
	if !settled { // the guest has not seen yet what this daemon has, and may go on from an earlier write
		return
	}
	if !v.verb(ctx, "fork", g.name, name) {
		return
	}
	nc, err := net.Dial("unix", v.day.d.nbd())
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	c, err := nbdclient.New(ctx, nc, nbdclient.Options{Export: name})
	if err != nil {
		return
	}
	defer c.Close()
	got, err := g.readAll(c)
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	if v.day.life.Load() != life { // the guest may have gone on from an earlier write since
		return
	}
	if err == nil {
		_, err = g.h.match(got, least)
	} else if !errors.Is(err, errBadContent) {
		return
	}
	if err != nil {
		v.day.fail("%s, a fork of %s: %v", name, g.name, err)
	}
}
