package hardware

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sim/dice"
)

// link is the store as one life of a host reaches it. What a request meets is
// drawn from what it asks for and how often that was asked before; an outage
// and a partition come on top.
type link struct {
	m    *Machine
	life int

	mu   sync.Mutex
	seen map[string]uint64
}

// Weather is the chances of what a request meets, each in a thousand.
type Weather struct {
	Before, After, Late, Twice int // an error before its effect, or after it; an effect hours later; a second one
	Slow                       int // it takes seconds
	Flip                       int // a bit of what it reads changes
}

var errNoPower = errs.New(errs.Unavailable, "this host has no power: %w", objstore.ErrPersistent)

// class is what requests are counted by: the key, where the host did not make it
// up at random.
func class(key string) string {
	if _, err := pack.ParseKey(key); err == nil { // whatever its domain
		return "packs/"
	}
	if strings.HasPrefix(key, "pins/") {
		return "pins/"
	}
	if strings.HasPrefix(key, "forwards/") {
		return "forwards/"
	}
	return key
}

// request is one on its way.
type request struct {
	l    *link
	what string
	d    dice.Dice
}

func (l *link) request(op objstore.Op, key string) *request {
	what := op.String() + " " + class(key)
	l.mu.Lock()
	l.seen[what]++
	n := l.seen[what]
	l.mu.Unlock()
	return &request{l, fmt.Sprintf("h%d.%d %s #%d", l.m.index, l.life, what, n),
		dice.New(l.m.seed, what, uint64(l.m.index), uint64(l.life), n)}
}

// sleep is time on the way; a host that is suspended sees it end when it wakes.
func (r *request) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return errs.New(errs.Unavailable, "%s: no answer: %w", r.what, ctx.Err())
	}
	r.l.m.Awake()
	return nil
}

// reach is the way to the store: it may be cut.
func (r *request) reach(ctx context.Context) error {
	l := r.l
	l.m.Awake()
	if !l.m.Alive(l.life) {
		return errNoPower
	}
	if !l.m.cutOff() {
		return nil
	}
	if r.d.Chance(300) { // it is swallowed
		<-ctx.Done()
		return errs.New(errs.Unavailable, "%s: no answer: %w", r.what, ctx.Err())
	}
	if err := r.sleep(ctx, r.d.Around(5*time.Millisecond)); err != nil {
		return err
	}
	return errs.New(errs.Unavailable, "%s: no route to the store", r.what)
}

func (r *request) latency() time.Duration {
	path := r.l.m.farther()
	if r.d.Chance(r.l.m.weather.Slow) {
		return path + r.d.Around(8*time.Second)
	}
	return path + r.d.Around(6*time.Millisecond)
}

// change is a request that changes something. Its effect may come before or
// after an error, hours after its sender stopped waiting, twice, or never.
func (r *request) change(ctx context.Context, apply func() error) error {
	if err := r.reach(ctx); err != nil {
		return err
	}
	l, wx := r.l, r.l.m.weather
	there, back := r.latency(), r.latency()
	outage := l.m.world.Outage()
	if r.d.Chance(wx.Before) || outage && r.d.Chance(700) {
		if err := r.sleep(ctx, there); err != nil {
			return err
		}
		return errs.New(errs.Unavailable, "%s: refused", r.what)
	}
	if r.d.Chance(wx.Late) || outage && r.d.Chance(300) {
		l.m.world.Later(r.what, r.d.Around(3*time.Hour), apply)
		if r.d.Chance(500) {
			<-ctx.Done()
		}
		return errs.New(errs.Unavailable, "%s: lost", r.what)
	}
	if err := r.sleep(ctx, there); err != nil {
		if r.d.Chance(500) {
			l.m.world.Later(r.what, r.d.Around(time.Minute), apply)
		}
		return err
	}
	if !l.m.Alive(l.life) || l.m.tick(l.life, "before "+r.what) {
		switch r.d.N(3) { // it was under way when the power went
		case 0:
			_ = apply()
		case 1:
			l.m.world.Later(r.what, r.d.Around(2*time.Hour), apply)
		}
		return errNoPower
	}
	err := apply()
	l.m.world.Trace("%s: %v", r.what, Kind(err))
	if r.d.Chance(wx.Twice) {
		l.m.world.Later(r.what, r.d.Around(time.Minute), apply)
	}
	if err := r.sleep(ctx, back); err != nil {
		return err
	}
	if l.m.tick(l.life, "after "+r.what) {
		return errNoPower
	}
	if r.d.Chance(wx.After) || outage || l.m.cutOff() {
		return errs.New(errs.Unavailable, "%s: the answer was lost", r.what)
	}
	return err
}

// read is a request that changes nothing.
func (r *request) read(ctx context.Context, get func() error) error {
	if err := r.reach(ctx); err != nil {
		return err
	}
	if err := r.sleep(ctx, r.latency()); err != nil {
		return err
	}
	if !r.l.m.Alive(r.l.life) {
		return errNoPower
	}
	if r.d.Chance(r.l.m.weather.Before) || r.l.m.world.Outage() {
		return errs.New(errs.Unavailable, "%s: refused", r.what)
	}
	err := get()
	if err := r.sleep(ctx, r.latency()); err != nil {
		return err
	}
	return err
}

// flip changes a bit of what was read, now and then.
func (r *request) flip(b []byte) {
	if len(b) > 0 && r.d.Chance(r.l.m.weather.Flip) {
		b[r.d.N(len(b))] ^= 1 << r.d.N(8)
		r.l.m.world.Flipped()
	}
}

// Kind is what the trace says of how something ended.
func Kind(err error) string {
	if err == nil {
		return "ok"
	}
	return errs.KindOf(err).String()
}

// Get implements objstore.Store.
func (l *link) Get(ctx context.Context, key string) (b []byte, err error) {
	r := l.request(objstore.OpGet, key)
	err = r.read(ctx, func() error { b, err = l.m.store.Get(context.Background(), key); return err })
	r.flip(b)
	return b, err
}

// GetRange implements objstore.Store.
func (l *link) GetRange(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	r := l.request(objstore.OpGetRange, key)
	err = r.read(ctx, func() error { b, err = l.m.store.GetRange(context.Background(), key, off, n); return err })
	r.flip(b)
	return b, err
}

// Head implements objstore.Store.
func (l *link) Head(ctx context.Context, key string) (in objstore.Info, err error) {
	err = l.request(objstore.OpHead, key).read(ctx, func() error { in, err = l.m.store.Head(context.Background(), key); return err })
	return in, err
}

// List implements objstore.Store.
func (l *link) List(ctx context.Context, prefix, after string, limit int) (in []objstore.Info, err error) {
	err = l.request(objstore.OpList, prefix).read(ctx, func() error {
		in, err = l.m.store.List(context.Background(), prefix, after, limit)
		return err
	})
	return in, err
}

// Put implements objstore.Store.
func (l *link) Put(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return l.request(objstore.OpPut, key).change(ctx, func() error {
		l.m.world.Replaced(key, data)
		return l.m.store.Put(context.Background(), key, data)
	})
}

// PutIfAbsent implements objstore.Store.
func (l *link) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return l.request(objstore.OpPutIfAbsent, key).change(ctx, func() error {
		err := l.m.store.PutIfAbsent(context.Background(), key, data)
		if err == nil {
			l.m.world.Created(key, data, l.life)
		}
		return err
	})
}

// Delete implements objstore.Store.
func (l *link) Delete(ctx context.Context, key string) error {
	return l.request(objstore.OpDelete, key).change(ctx, func() error {
		l.m.world.Deleted(key)
		return l.m.store.Delete(context.Background(), key)
	})
}

// DeleteBatch implements objstore.Store.
func (l *link) DeleteBatch(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := l.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) String() string { return "sim://" }
