package boot

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// facts are the names of the lists that this host has; the rest of a name is domain and
// root.
const facts = "boot/"

// storeTimeout bounds the storing of a list, also when the host stops.
const storeTimeout = 5 * time.Second

// Boots keeps the boot lists of a host. All methods may be called concurrently.
type Boots struct {
	// BadLists counts the lists that could not be used, in the store or on this host.
	BadLists atomic.Uint64

	disks *disk.Table
	off   bool
	asked singleflight.Group

	mu       sync.Mutex      // glide:nonblocking
	unstored map[string]bool // facts of lists that the store should get
}

// New returns the keeper of a host's lists. If off is set, it keeps none.
func New(t *disk.Table, off bool) *Boots {
	return &Boots{disks: t, off: off, unstored: map[string]bool{}}
}

// image is what a list belongs to: the root of a map, in a domain.
type image struct{ domain, root string }

func (im image) fact() string { return facts + im.domain + "/" + im.root }

// imageOf returns the image of a volume: what it was forked from, or else itself. ok is
// false if the image has no blocks.
func imageOf(st *volume.State) (im image, ok bool) {
	im = image{disk.DomainName(st), rootText(st.Root)}
	if st.Parent != nil && isRoot(st.Parent.Root) {
		im.root = st.Parent.Root
	}
	return im, im.root != ""
}

// Opened begins to record a volume that is new on this host. It is a disk.Hooks.Opened.
func (b *Boots) Opened(_ *disk.Disk, v *volume.Volume) {
	st := v.State()
	im, ok := imageOf(&st)
	if b.off || !ok || st.SnapshotOf != (volume.ID{}) || st.Root.IsHole() {
		return
	}
	v.Guide().Record(newSession(b, v, im))
}

// GuestsLeft tells that a volume's last guest has gone. It is a disk.Hooks.GuestsLeft.
func (b *Boots) GuestsLeft(d *disk.Disk) {
	if s := sessionOf(d); s != nil {
		s.poke()
	}
}

// sessionOf returns the session that records a disk, or nil.
func sessionOf(d *disk.Disk) *session {
	v := d.Volume()
	if v == nil {
		return nil
	}
	s, _ := v.Guide().Recorder().(*session)
	return s
}

// Summary says how long a list is, and how many of its blocks the last boot read.
type Summary struct{ Blocks, Used int }

func (l *list) summary() Summary {
	if l == nil {
		return Summary{}
	}
	return Summary{len(l.Blocks), l.Used}
}

// Show describes the list of a volume's image. If the volume is booting with it, the last
// boot is that of this volume.
func (b *Boots) Show(d *disk.Disk) Summary {
	if s := sessionOf(d); s != nil {
		if sum, ok := s.summary(); ok {
			return sum
		}
	}
	st := d.State()
	im, ok := imageOf(&st)
	if !ok {
		return Summary{}
	}
	return b.known(im).summary()
}

// Stored describes the list of the image of a volume that is only in the store.
func (b *Boots) Stored(ctx context.Context, st *volume.State) Summary {
	im, ok := imageOf(st)
	if !ok || b.off {
		return Summary{}
	}
	return b.listOf(ctx, im).summary()
}

// known returns the list that this host has, or nil.
func (b *Boots) known(im image) *list {
	raw, err := b.disks.DB.Fact(im.fact())
	if err != nil || raw == nil {
		return nil
	}
	l, err := decode(raw)
	if err != nil {
		b.bad(im, err)
	}
	return l
}

// listOf returns the list of an image, which may come from the store, or nil.
func (b *Boots) listOf(ctx context.Context, im image) *list {
	if l := b.known(im); l != nil {
		return l
	}
	v, _, _ := b.asked.Do(im.fact(), func() (any, error) { return b.stored(ctx, im), nil })
	return v.(*list)
}

// stored returns the list that the store has, or nil.
func (b *Boots) stored(ctx context.Context, im image) *list {
	key := keyOf(im.domain, im.root)
	info, err := b.disks.Store.Head(ctx, key)
	switch {
	case err != nil:
		return nil // there is none, or the store has other troubles, which others will tell
	case info.Size > maxList || info.Size < listHead:
		b.bad(im, errs.New(errs.Corrupt, "a boot list of %d bytes", info.Size))
		return nil
	}
	raw, err := b.disks.Store.GetRange(ctx, key, 0, info.Size)
	if err != nil {
		return nil
	}
	l, err := decode(raw)
	if err != nil {
		b.bad(im, err)
		return nil
	}
	b.save(im, l)
	b.dropOthers(im)
	return l
}

func (b *Boots) bad(im image, err error) {
	b.BadLists.Add(1)
	b.disks.Log.Warn("a boot list is not used", "domain", im.domain, "image", im.root, "error", err)
}

// save keeps a list on this host.
func (b *Boots) save(im image, l *list) {
	if err := b.disks.DB.SetFact(im.fact(), l.encode()); err != nil {
		b.disks.Log.Warn("a boot list was not saved", "error", err) // the next boot is slower
	}
}

// dropOthers drops the lists of images that no volume of this host has come from. It is
// called when there is one more list.
func (b *Boots) dropOthers(im image) {
	needed := map[string]bool{im.fact(): true}
	for _, d := range b.disks.All() {
		st := d.State()
		if of, ok := imageOf(&st); ok {
			needed[of.fact()] = true
		}
	}
	var gone []string
	err := b.disks.DB.Facts(facts, func(name string, _ []byte) error {
		if !needed[name] {
			gone = append(gone, name)
		}
		return nil
	})
	for _, name := range gone {
		if err == nil {
			err = b.disks.DB.SetFact(name, nil)
		}
	}
	if err != nil {
		b.disks.Log.Warn("old boot lists were not removed", "error", err)
	}
}

// learned takes what a guest read. send says that the store should have it now.
func (b *Boots) learned(ctx context.Context, im image, read []uint64, send bool) {
	b.mu.Lock()
	waits := b.unstored[im.fact()]
	b.mu.Unlock()
	old := b.known(im)
	fresh := old == nil
	if fresh {
		old = &list{}
	}
	l, changed, much := old.learn(read)
	if changed || l.Used != old.Used {
		b.save(im, l)
	}
	if fresh {
		b.dropOthers(im)
	}
	b.mu.Lock()
	b.unstored[im.fact()] = waits || fresh || much
	b.mu.Unlock()
	if send {
		b.store(ctx, im)
	}
}

// Published stores the lists of a volume, and of what it was forked from, after a
// publication.
func (b *Boots) Published(ctx context.Context, d *disk.Disk) {
	st := d.State()
	if im, ok := imageOf(&st); ok {
		b.store(ctx, im)
	}
}

// store puts a list into the store if it has changed.
func (b *Boots) store(ctx context.Context, im image) {
	b.mu.Lock()
	due := b.unstored[im.fact()]
	delete(b.unstored, im.fact())
	b.mu.Unlock()
	l := b.known(im)
	if !due || l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := b.disks.Store.Put(ctx, keyOf(im.domain, im.root), l.encode()); err != nil {
		b.disks.Log.Warn("a boot list was not stored", "image", im.root, "error", err)
		b.mu.Lock()
		b.unstored[im.fact()] = true
		b.mu.Unlock()
	}
}
