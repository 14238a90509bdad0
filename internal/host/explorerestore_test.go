package host

import (
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// becomes is a new volume, or none, under the name.
func (s *slot) becomes(next slot) {
	next.gone = s.gone
	*s = next
}

// removed is what a removal leaves. That of a volume that the store did not have leaves
// what an earlier one did; nobody knows whether it had one whose publication failed.
func (s *slot) removed() {
	switch {
	case s.stored:
		s.gone = s.may
	case s.failed != 0 && s.gone != nil:
		s.gone = append(slices.Clone(s.gone), s.may...)
	}
	s.becomes(slot{})
}

// restore brings what the newest removal of a volume took back, on a host and as v. A
// removal that failed may have taken effect, or not.
func (w *explored) restore(from, v, host int) error {
	src, s, name := &w.slots[from], &w.slots[v], slotName(v)
	again, unsure := s.failed == 'B', src.failed == 'R'
	s.from = from
	if err := w.enter(v, host, 'B'); err != nil {
		return err
	}
	may, as := slices.Clone(src.gone), ""
	if unsure {
		may = append(may, src.may...)
	}
	if from != v {
		as = name
	}
	was := *s
	s.failed, s.host, s.at, s.may = 'B', host, host, append(s.may, may...)
	if again {
		may = s.may // an earlier request may have taken effect since
	}
	h := w.on(host)
	_, err := h.Restore(ctx, slotName(from), as)
	_, gone := h.disks.Local(name, false)
	switch kind := errs.KindOf(err); {
	case err == nil, again && kind == errs.Exists && gone == nil:
	case unsure && (kind == errs.Exists || kind == errs.NotFound):
		*s = was
		return nil
	case kind == errs.NotFound:
		if !w.condemned(from) {
			broken("%s cannot be restored, and no round condemned it: %v", slotName(from), err)
		}
		s.becomes(slot{})
		return nil
	default:
		return err
	}
	c, err := w.readBack(h, name)
	if err != nil {
		return err
	}
	if !slices.Contains(may, c) {
		broken("%s was restored with %v, and may have had %v", slotName(from), c, may)
	}
	s.becomes(slot{exists: true, at: host, live: c, stored: true, may: []content{c}})
	return nil
}

// readBack reads what a verb has brought to a host. Nobody hears the answer of a host that
// died meanwhile.
func (w *explored) readBack(h *Host, name string) (content, error) {
	c, err := exploreRead(h, name)
	if w.acting.isDead() {
		return c, noPower()
	}
	w.must(err, "reading %s", name)
	return c, nil
}

// left is what the newest removal of a volume left in its log: nil if that is gone.
func (w *explored) left(v int) *commitlog.Object {
	name, err := disk.ParseName(slotName(v), false)
	w.must(err, "a name")
	tomb, _, err := catalog.New(&disk.Table{Base: disk.Base{Store: w.store}}).LastRemoval(ctx, name)
	w.must(err, "looking for a removal of %s", name)
	if tomb == nil {
		broken("%s was removed, and its log has no removal", name)
	}
	o, err := commitlog.Load(ctx, w.store, name.Log(), tomb.State.After)
	if errs.KindOf(err) == errs.NotFound || err == nil && o.Bare() {
		return nil
	}
	w.must(err, "reading what a removal of %s left", name)
	return o
}

// collected tells whether there is nothing left to restore.
func (w *explored) collected(v int) bool { return w.left(v) == nil }

// condemned tells whether a round has condemned what the newest removal of a volume left:
// it is gone, or a round has been judged and is not closed.
func (w *explored) condemned(v int) bool {
	if w.collected(v) {
		return true
	}
	judged := false
	w.must(objstore.ListAll(ctx, w.store, "gc/rounds/", "", func(in objstore.Info) bool {
		if round, ok := strings.CutSuffix(in.Key, "/verdict"); ok {
			if _, err := w.store.Head(ctx, round+"/closed"); err != nil {
				judged = true
			}
		}
		return true
	}), "listing rounds")
	return judged
}

// noOrphans waits until the hosts have withdrawn what a call began to create and did not.
func (w *explored) noOrphans() {
	for deadline := time.Now().Add(5 * time.Second); len(w.machines[0].h.disks.OrphanNames())+len(w.machines[1].h.disks.OrphanNames()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			broken("an orphan stays")
		}
	}
}
