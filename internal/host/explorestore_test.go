package host

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
)

// blow is what happens at a request that changes the store.
type blow string

const (
	crashBefore blow = "crash-before" // the process dies, and the request was not sent
	crashAfter  blow = "crash-after"  // the request takes effect, and the process dies
	crashLate   blow = "crash-late"   // the process dies, and the request takes effect later
	replyLost   blow = "reply-lost"   // the request takes effect, and its sender gets an error
	replyLate   blow = "late"         // its sender gets an error, and the request takes effect later
	pause       blow = "pause"        // three rounds run, and then the request takes effect and is answered
	oneStep     blow = "pause1"       // as pause, but the collector that waits makes one step
	twoSteps    blow = "pause2"       // two steps
	threeSteps  blow = "pause3"       // three steps
)

var (
	blows      = []blow{crashBefore, crashAfter, crashLate, replyLost, replyLate, pause}
	shortBlows = append(slices.Clone(blows), oneStep, twoSteps, threeSteps) // of a single operation
)

func (b blow) kills() bool  { return strings.HasPrefix(string(b), "crash") }
func (b blow) pauses() bool { return strings.HasPrefix(string(b), "pause") }

// process is the store as one process sees it: a life of a host, or a run of a collector.
// Reads are never struck: a process that dies at one leaves what it leaves if it dies at
// the change before or after it.
type process struct {
	objstore.Store
	died func()     // called once, when the process dies
	wait func(blow) // what happens during a pause
	gate func(moment, key string)

	mu      sync.Mutex
	dead    bool
	changes int // since arm
	at      int // the change that is struck; 0: none
	blow    blow
	struck  string // its key
	late    func() // lets the request take effect
}

// arm makes the n-th change from now on fail. It forgets an earlier blow.
func (p *process) arm(n int, b blow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes, p.at, p.blow, p.struck = 0, n, b, ""
}

// disarm reports the changes since arm, and the key of the one that was struck.
func (p *process) disarm() (changes int, struck string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = 0
	return p.changes, p.struck
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func noPower() error { return errs.New(errs.Unavailable, "this process is dead") }

func (p *process) change(ctx context.Context, key string, do func(context.Context) error) error {
	if p.gate != nil {
		p.gate("before", key)
	}
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return noPower()
	}
	p.changes++
	strikes := p.changes == p.at
	if strikes {
		p.struck = key
	}
	if b := p.blow; !strikes || b.pauses() {
		p.mu.Unlock()
		if strikes {
			p.wait(b)
		}
		err := do(ctx)
		if p.gate != nil && err == nil {
			p.gate("after", key)
		}
		return err
	}
	ctx = context.WithoutCancel(ctx)
	switch p.blow {
	case crashAfter, replyLost:
		_ = do(ctx) // nobody gets the reply
	case crashLate, replyLate:
		p.late = func() { _ = do(ctx) }
	}
	dies := p.blow.kills()
	p.dead = dies
	p.mu.Unlock()
	if dies && p.died != nil {
		p.died()
	}
	return errs.New(errs.Unavailable, "%s: no reply", key)
}

// land lets a request that was held back take effect.
func (p *process) land() {
	p.mu.Lock()
	do := p.late
	p.late = nil
	p.mu.Unlock()
	if do != nil {
		do()
	}
}

func (p *process) Put(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return p.change(ctx, key, func(ctx context.Context) error { return p.Store.Put(ctx, key, data) })
}

func (p *process) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return p.change(ctx, key, func(ctx context.Context) error { return p.Store.PutIfAbsent(ctx, key, data) })
}

func (p *process) Delete(ctx context.Context, key string) error {
	return p.change(ctx, key, func(ctx context.Context) error { return p.Store.Delete(ctx, key) })
}

func (p *process) DeleteBatch(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	keys = append([]string{}, keys...)
	return p.change(ctx, keys[0], func(ctx context.Context) error { return p.Store.DeleteBatch(ctx, keys) })
}

func (p *process) Get(ctx context.Context, key string) ([]byte, error) {
	if p.isDead() {
		return nil, noPower()
	}
	return p.Store.Get(ctx, key)
}

func (p *process) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if p.isDead() {
		return nil, noPower()
	}
	return p.Store.GetRange(ctx, key, off, n)
}

func (p *process) Head(ctx context.Context, key string) (objstore.Info, error) {
	if p.isDead() {
		return objstore.Info{}, noPower()
	}
	return p.Store.Head(ctx, key)
}

func (p *process) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if p.isDead() {
		return nil, noPower()
	}
	if p.gate != nil && after == "" {
		p.gate("list", prefix)
	}
	return p.Store.List(ctx, prefix, after, limit)
}

// steps is a run of a collector that stops at its gates: before and after it creates the
// flag list and the verdict, and before it closes the round; and if it makes small steps,
// also between the pins and the logs of a mark.
type steps struct {
	*process
	small  bool
	marks  bool // the first of the two was listed
	resume chan struct{}
	stops  chan bool // whether the run is over
	err    error
	over   bool
}

func newSteps(p *process) *steps {
	s := &steps{process: p, resume: make(chan struct{}), stops: make(chan bool)}
	s.gate = func(moment, key string) {
		if moment == "list" {
			if key != "pins/" && key != "t/" {
				return
			}
			if s.marks = !s.marks; !s.marks && s.small {
				s.stops <- false
				<-s.resume
			}
			return
		}
		_, part, _ := strings.Cut(strings.TrimPrefix(key, "gc/rounds/"), "/")
		_, part, _ = strings.Cut(part, "/")
		if !strings.HasPrefix(key, "gc/rounds/") || part == "closed" && moment == "after" {
			return
		}
		// The deletion of a closed round's objects names them, too.
		if moment == "before" && s.isClosed(key) {
			return
		}
		s.stops <- false
		<-s.resume
	}
	go func() {
		<-s.resume
		_, s.err = gc.Run(ctx, collectorOptions(s.process, nil))
		s.stops <- true
	}()
	return s
}

// isClosed tells whether the round of a key is closed.
func (s *steps) isClosed(key string) bool {
	_, err := s.process.Store.Head(ctx, key[:strings.LastIndexByte(key, '/')+1]+"closed")
	return err == nil
}

// step runs the collector to its next gate, or to its end.
func (s *steps) step() {
	if !s.over {
		s.resume <- struct{}{}
		s.over = <-s.stops
	}
}

// finish runs it to its end.
func (s *steps) finish() {
	for !s.over {
		s.step()
	}
}

func collectorOptions(store objstore.Store, memory *gc.Memory) gc.Options {
	return gc.Options{Store: store, By: "explorer", Retention: 1, MinDead: 1, Memory: memory}
}
