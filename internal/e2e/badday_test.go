package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	servers "github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/objstore/s3test"
)

var seedFlag = flag.Uint64("e2e.seed", 0, "seed of the bad day's troubles (default 4, and another each time with GLIDE_SOAK)")

// TestBadDay has one trouble after another befall a host, one or two at a time, while
// guests of every policy write and verbs run: its disk, its store, its processes,
// its files, its clients. Nothing that was acknowledged is lost, the daemon ends when it
// is told to and never else, errors are worth their name, and a minute after a
// trouble all works again. In the end the host is lost with its disk, and another
// one finds in the store what the policies promise.
//
// It is a slice of some 20 s, and as long as GLIDE_SOAK says. The troubles of a day repeat
// with -e2e.seed; what the guests and verbs do at the moment does not.
func TestBadDay(t *testing.T) {
	t.Parallel() // it waits
	seed, limit, calm := uint64(4), 12*time.Second, 500*time.Millisecond
	if soak, err := time.ParseDuration(os.Getenv("GLIDE_SOAK")); err == nil {
		seed, limit, calm = uint64(time.Now().UnixNano()), soak, 4*time.Second
	}
	if *seedFlag != 0 {
		seed = *seedFlag
	}
	t.Logf("-e2e.seed %d", seed)
	y := newBadDay(t, seed)
	y.work(limit, calm)
}

// badDay is a host in trouble. Its own goroutine is the test's, and it alone starts
// and ends the daemon.
type badDay struct {
	t           *testing.T
	r           *rand.Rand // of the troubles
	deck        []trouble  // that are to come
	s3          *s3test.Server
	store       *badStore
	disk        string // where the data directory's file system is mounted
	credentials string // file
	keys        int    // how often they were changed
	d           *daemon
	guests      []*badGuest
	verbs       []*badVerbs

	// life is twice the number of times that the daemon was started again, odd while it
	// is not there; stopped is the life before which it was stopped in good order.
	life, stopped atomic.Int64

	ctx  context.Context // until something is wrong, or the day ends
	over context.CancelFunc
	wg   sync.WaitGroup
}

// newBadDay starts a host with volumes of each policy.
func newBadDay(t *testing.T, seed uint64) *badDay {
	y := &badDay{t: t, r: rand.New(rand.NewPCG(seed, 1))}
	y.s3 = s3test.New(t, s3test.Options{Private: true})
	y.store = newBadStore(t, y.s3.URL)
	y.credentials = filepath.Join(t.TempDir(), "credentials")
	y.s3.Kill()
	y.s3.Rekey("key0", "secret-number-0")
	y.s3.Start()
	y.writeKeys("key0", "secret-number-0", true)
	// Room for the log of all volumes, and few enough inodes to be taken in a moment.
	y.disk, _ = mountDisk(t, 2<<30, "mkfs.ext4", "-qFm0", "-N", "1500")
	y.d = y.host()
	y.d.data = filepath.Join(y.disk, "data")
	y.d.start()
	for i, policy := range []string{"local", "continuous", "sync", "local", "continuous", "sync"} {
		g := &badGuest{day: y, number: i, name: fmt.Sprintf("%s%d", policy, i/3), policy: policy, rpo: time.Duration(1+i/3*4) * time.Second}
		g.h.pages, g.r = guestPages, rand.New(rand.NewPCG(seed, uint64(100+i)))
		y.d.do("create", g.name, "--size", fmt.Sprint(guestPages*page), "--durability", policy, "--rpo", g.rpo.String())
		y.guests = append(y.guests, g)
	}
	for i := range 2 {
		y.verbs = append(y.verbs, &badVerbs{day: y, own: string(rune('a' + i)), r: rand.New(rand.NewPCG(seed, uint64(200+i)))})
	}
	return y
}

// host is a daemon that uses the store.
func (y *badDay) host() *daemon {
	d := newDaemon(y.t, y.store.url, "--wal-limit", "1G", "--cache", "64M", "--dirty-budget", "16M")
	d.env = append(s3test.Environment(), "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SHARED_CREDENTIALS_FILE="+y.credentials)
	return d
}

// work is the day.
func (y *badDay) work(limit, calm time.Duration) {
	y.ctx, y.over = context.WithCancel(context.Background())
	defer y.wg.Wait()
	defer y.over()
	for _, g := range y.guests {
		y.wg.Go(func() { g.run(y.ctx) })
	}
	for _, v := range y.verbs {
		y.wg.Go(func() { v.run(y.ctx) })
	}
	y.recovered("the start")
	count, worst := map[string]int{}, map[string]time.Duration{}
	for end := time.Now().Add(limit); time.Now().Before(end); {
		name := y.befall(calm)
		took := y.recovered(name)
		for _, n := range strings.Split(name, " and ") {
			count[n]++
			worst[n] = max(worst[n], took)
		}
		y.wait(time.Duration(y.r.Int64N(int64(calm))))
	}
	for _, x := range troubles {
		if n := count[x.name]; n > 0 {
			y.t.Logf("%3d times %-36s all worked again after %v at most", n, x.name, worst[x.name].Round(10*time.Millisecond))
		}
	}
	y.lost()
}

// befall lets one trouble or two begin and end, and names them.
func (y *badDay) befall(calm time.Duration) (name string) {
	all := []trouble{y.next()}
	if y.r.IntN(2) == 0 {
		if second := y.next(); second.kind != all[0].kind {
			all = append(all, second)
		} else {
			y.deck = append(y.deck, second)
		}
	}
	var names []string
	for _, x := range all {
		names = append(names, x.name)
	}
	name = strings.Join(names, " and ")
	y.t.Logf("%s %s", time.Now().Format("15:04:05"), name)
	var lifts []func()
	for _, x := range all {
		if lift := x.begin(y); lift != nil {
			lifts = append(lifts, lift)
		}
		y.wait(calm/4 + time.Duration(y.r.Int64N(int64(2*calm))))
	}
	for _, lift := range lifts {
		lift()
	}
	return name
}

// next takes a trouble from a shuffled deck of all, so that none is left out.
func (y *badDay) next() trouble {
	if len(y.deck) == 0 {
		y.deck = slices.Clone(troubles)
		y.r.Shuffle(len(y.deck), func(i, j int) { y.deck[i], y.deck[j] = y.deck[j], y.deck[i] })
	}
	last := len(y.deck) - 1
	x := y.deck[last]
	y.deck = y.deck[:last]
	return x
}

// wait lets time pass in which the daemon must not end.
func (y *badDay) wait(d time.Duration) {
	y.t.Helper()
	y.alive()
	select {
	case <-y.ctx.Done():
	case <-y.d.proc.Exited():
	case <-time.After(d):
	}
	y.alive()
}

// alive ends the test if the daemon has ended, a request in it has panicked, or
// something else is wrong.
func (y *badDay) alive() {
	y.t.Helper()
	select {
	case <-y.d.proc.Exited():
		y.t.Fatalf("the daemon ended by itself: %v", y.d.proc.Cmd.ProcessState)
	default:
	}
	if log := y.d.log.String(); strings.Contains(log, "panic") {
		y.t.Fatal("something panicked in the daemon")
	} else if len(log) > 4<<20 {
		y.d.log.Reset()
	}
	if y.ctx.Err() != nil {
		y.t.FailNow() // who ended it has said why
	}
}

// fail says what is wrong, and ends the day.
func (y *badDay) fail(format string, args ...any) {
	y.t.Errorf(format, args...)
	y.over()
}

// verbLimit is how long a verb, and everything after a trouble, may take.
const verbLimit = time.Minute

// verb runs a verb, which may fail, in time and with one line that says why.
func (y *badDay) verb(ctx context.Context, args ...string) result {
	limited, cancel := context.WithTimeout(ctx, verbLimit)
	defer cancel()
	r, _ := servers.Run(y.d.cli().Command(limited, args...))
	said := strings.TrimSpace(r.Err)
	what := "glide " + strings.Join(args, " ")
	switch {
	case ctx.Err() != nil:
	case limited.Err() != nil:
		y.fail("%s took more than %v", what, verbLimit)
	case r.Code == 0:
	case strings.Contains(said+r.Out, "bug"):
		y.fail("%s calls it a bug: %s%s", what, r.Out, said)
	case args[0] == "doctor":
	case r.Code != 1 && r.Code != 3 || said == "" || strings.Contains(said, "\n"):
		y.fail("%s: exit %d with no error of one line: %q", what, r.Code, r.Err)
	}
	return r
}

// recovered waits until everything works: each guest writes, flushes and reads, a
// volume is made and removed, and doctor finds nothing wrong. It returns how long that took.
func (y *badDay) recovered(after string) time.Duration {
	y.t.Helper()
	began := time.Now()
	for _, works := range []func(time.Time) string{y.guestsWork, y.verbsWork, y.doctorWorks} {
		for left := works(began); left != ""; left = works(began) {
			if time.Since(began) > verbLimit {
				y.t.Errorf("%v after %s: %s\n%s", verbLimit, after, left, y.verb(y.ctx, "ls").Out)
				y.signal(syscall.SIGQUIT) // its log has then what it was doing
				<-y.d.proc.Exited()
				y.t.FailNow()
			}
			y.wait(100 * time.Millisecond)
		}
	}
	y.alive()
	return time.Since(began)
}

// guestsWork says whose guest has not written, flushed and read since.
func (y *badDay) guestsWork(since time.Time) string {
	for _, g := range y.guests {
		if g.worked.Load() < since.UnixNano() || g.read.Load() < since.UnixNano() {
			last := "no error"
			if s := g.lastError.Load(); s != nil {
				last = *s
			}
			return fmt.Sprintf("the guest of %s does not get on: %s", g.name, last)
		}
	}
	return ""
}

func (y *badDay) verbsWork(time.Time) string {
	if r := y.verb(y.ctx, "create", "probe", "--size", "1M"); r.Code != 0 {
		_ = y.verb(y.ctx, "rm", "probe") // of an attempt whose answer did not come
		return "create: " + r.Err
	}
	if r := y.verb(y.ctx, "rm", "probe"); r.Code != 0 {
		return "rm: " + r.Err
	}
	return ""
}

func (y *badDay) doctorWorks(time.Time) string {
	if r := y.verb(y.ctx, "doctor"); r.Code != 0 {
		return "doctor: " + r.Out + r.Err
	}
	return ""
}

// lost is the end of the host and its disk, and what another finds in the store.
func (y *badDay) lost() {
	for _, g := range y.guests {
		n := g.answered()
		if r := y.verb(y.ctx, "flush", g.name); r.Code != 0 {
			y.t.Fatalf("flush %s: %s", g.name, r.Err)
		}
		g.nowPublished(n)
	}
	y.wait(time.Duration(y.r.Int64N(int64(2 * time.Second))))
	y.life.Add(1)
	y.d.kill()
	y.over()
	y.wg.Wait()
	must(y.t, os.RemoveAll(y.d.data))
	b := y.host()
	b.start()
	for _, g := range y.guests {
		b.do("wake", g.name, "--force")
		c := b.dial(g.name)
		got, err := g.readAll(c)
		if err == nil {
			err = g.survived(got)
		}
		if err != nil {
			y.t.Errorf("%s, on another host: %v", g.name, err)
		}
		_ = c.Close()
		y.t.Logf("%s: %d writes", g.name, g.answered())
	}
	for _, v := range y.verbs {
		y.t.Logf("%d verbs did it, %d failed as they should", v.ok, v.refused)
	}
	b.stop()
}
