package sim

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
)

// link is the store as one life of a host reaches it. What a request meets is
// drawn from what it asks for and how often that was asked before; an outage
// and a partition come on top.
type link struct {
	w    *world
	m    *machine
	life int

	mu   sync.Mutex
	seen map[string]uint64
}

// Chances of what a request meets, in a thousand.
type weather struct {
	before, after, late, slow, twice, flip int
}

var errNoPower = errs.New(errs.Unavailable, "this host has no power: %w", objstore.ErrPersistent)

// packs is the class of all packs.
const packs = "packs/"

// class is what requests are counted by: the key, where the host did not make it
// up at random.
func class(key string) string {
	if _, err := pack.ParseKey(key); err == nil { // whatever its domain
		return packs
	}
	if strings.HasPrefix(key, "pins/") {
		return "pins/"
	}
	return key
}

// request is one on its way.
type request struct {
	l    *link
	what string
	d    dice
}

func (l *link) request(op objstore.Op, key string) *request {
	what := op.String() + " " + class(key)
	l.mu.Lock()
	l.seen[what]++
	n := l.seen[what]
	l.mu.Unlock()
	return &request{l, fmt.Sprintf("h%d.%d %s #%d", l.m.index, l.life, what, n),
		dice{draw(l.w.seed, what, uint64(l.m.index), uint64(l.life), n)}}
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
	r.l.m.awake()
	return nil
}

// reach is the way to the store: it may be cut.
func (r *request) reach(ctx context.Context) error {
	l := r.l
	l.m.awake()
	if !l.m.alive(l.life) {
		return errNoPower
	}
	if !l.m.cutOff() {
		return nil
	}
	if r.d.chance(300) { // it is swallowed
		<-ctx.Done()
		return errs.New(errs.Unavailable, "%s: no answer: %w", r.what, ctx.Err())
	}
	if err := r.sleep(ctx, r.d.around(5*time.Millisecond)); err != nil {
		return err
	}
	return errs.New(errs.Unavailable, "%s: no route to the store", r.what)
}

func (r *request) latency() time.Duration {
	w := &r.l.w.weather
	path := r.l.m.farther()
	if r.d.chance(w.slow) {
		return path + r.d.around(8*time.Second)
	}
	return path + r.d.around(6*time.Millisecond)
}

// change is a request that changes something. Its effect may come before or
// after an error, hours after its sender stopped waiting, twice, or never.
func (r *request) change(ctx context.Context, apply func() error) error {
	if err := r.reach(ctx); err != nil {
		return err
	}
	l, wx := r.l, &r.l.w.weather
	there, back := r.latency(), r.latency()
	outage := l.w.outage()
	if r.d.chance(wx.before) || outage && r.d.chance(700) {
		if err := r.sleep(ctx, there); err != nil {
			return err
		}
		return errs.New(errs.Unavailable, "%s: refused", r.what)
	}
	if r.d.chance(wx.late) || outage && r.d.chance(300) {
		l.w.later(r.what, r.d.around(3*time.Hour), apply)
		if r.d.chance(500) {
			<-ctx.Done()
		}
		return errs.New(errs.Unavailable, "%s: lost", r.what)
	}
	if err := r.sleep(ctx, there); err != nil {
		if r.d.chance(500) {
			l.w.later(r.what, r.d.around(time.Minute), apply)
		}
		return err
	}
	if !l.m.alive(l.life) || l.m.tick(l.life, "before "+r.what) {
		switch r.d.n(3) { // it was under way when the power went
		case 0:
			_ = apply()
		case 1:
			l.w.later(r.what, r.d.around(2*time.Hour), apply)
		}
		return errNoPower
	}
	err := apply()
	l.w.trace("%s: %v", r.what, kind(err))
	if r.d.chance(wx.twice) {
		l.w.later(r.what, r.d.around(time.Minute), apply)
	}
	if err := r.sleep(ctx, back); err != nil {
		return err
	}
	if l.m.tick(l.life, "after "+r.what) {
		return errNoPower
	}
	if r.d.chance(wx.after) || outage || l.m.cutOff() {
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
	if !r.l.m.alive(r.l.life) {
		return errNoPower
	}
	if r.d.chance(r.l.w.weather.before) || r.l.w.outage() {
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
	if len(b) > 0 && r.d.chance(r.l.w.weather.flip) {
		b[r.d.n(len(b))] ^= 1 << r.d.n(8)
		r.l.w.note(func(w *world) { w.flipped++ })
	}
}

func kind(err error) string {
	if err == nil {
		return "ok"
	}
	return errs.KindOf(err).String()
}

// Get implements objstore.Store.
func (l *link) Get(ctx context.Context, key string) (b []byte, err error) {
	r := l.request(objstore.OpGet, key)
	err = r.read(ctx, func() error { b, err = l.w.store.Get(context.Background(), key); return err })
	r.flip(b)
	return b, err
}

// GetRange implements objstore.Store.
func (l *link) GetRange(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	r := l.request(objstore.OpGetRange, key)
	err = r.read(ctx, func() error { b, err = l.w.store.GetRange(context.Background(), key, off, n); return err })
	r.flip(b)
	return b, err
}

// Head implements objstore.Store.
func (l *link) Head(ctx context.Context, key string) (in objstore.Info, err error) {
	err = l.request(objstore.OpHead, key).read(ctx, func() error { in, err = l.w.store.Head(context.Background(), key); return err })
	return in, err
}

// List implements objstore.Store.
func (l *link) List(ctx context.Context, prefix, after string, limit int) (in []objstore.Info, err error) {
	err = l.request(objstore.OpList, prefix).read(ctx, func() error {
		in, err = l.w.store.List(context.Background(), prefix, after, limit)
		return err
	})
	return in, err
}

// Put implements objstore.Store.
func (l *link) Put(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return l.request(objstore.OpPut, key).change(ctx, func() error { return l.w.store.Put(context.Background(), key, data) })
}

// PutIfAbsent implements objstore.Store.
func (l *link) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	from := sender{l.m.index, l.life}
	return l.request(objstore.OpPutIfAbsent, key).change(ctx, func() error {
		err := l.w.store.PutIfAbsent(context.Background(), key, data)
		if err == nil {
			l.w.created(key, data, from)
		}
		return err
	})
}

// Delete implements objstore.Store.
func (l *link) Delete(ctx context.Context, key string) error {
	return l.request(objstore.OpDelete, key).change(ctx, func() error {
		l.w.deleted(key)
		return l.w.store.Delete(context.Background(), key)
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
