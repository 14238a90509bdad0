package host

import (
	"errors"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// firstFact names the fact that tells which volume is being published for the
// first time under a name. While it is there, the volume may be, or appear, in
// the store, whatever its record says, or even if it has none.
func firstFact(st *volume.State) string { return "first/" + st.Tenant + "/" + st.Name }

const (
	unfinishedFacts = "unfinished/"
	firstFacts      = "first/" // see firstFact
)

// beginCreate notes volumes that are about to be made; finish ends that when they are
// made, or unmade.
func (h *Host) beginCreate(states ...*volume.State) (finish func() error, err error) {
	call := newVolumeID(h)
	fact := unfinishedFacts + call.String()
	var ids []byte
	h.mu.Lock()
	for _, st := range states {
		ids = append(ids, st.ID[:]...)
		h.creating[st.ID] = true
	}
	h.mu.Unlock()
	finish = func() error {
		err := h.db.SetFact(fact, nil)
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, st := range states {
			delete(h.creating, st.ID)
		}
		return err
	}
	if err := h.db.SetFact(fact, ids); err != nil {
		return finish, errors.Join(err, finish())
	}
	return finish, nil
}

// refuseWhileCreated keeps guests from a volume while the call that makes it is
// under way: were the host to stop, it would not be kept, nor what was
// acknowledged to them.
func (d *disk) refuseWhileCreated() error {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if d.h.creating[d.id] {
		return errs.New(errs.Busy, "volume %q is still being made", d)
	}
	return nil
}

// unfinishedCreates is what calls that did not end left behind.
func (h *Host) unfinishedCreates() (ids map[volume.ID]bool, facts []string, err error) {
	ids = map[volume.ID]bool{}
	err = h.db.Facts(unfinishedFacts, func(name string, value []byte) error {
		facts = append(facts, name)
		for id := range slices.Chunk(value, len(volume.ID{})) {
			if len(id) == len(volume.ID{}) {
				ids[volume.ID(id)] = true
			}
		}
		return nil
	})
	return ids, facts, err
}

// dropUnfinishedCreates forgets the volumes with these records, which were left behind.
// That they may be in the store stays known.
func (h *Host) dropUnfinishedCreates(records []volume.State, facts []string) error {
	ids := make([]volume.ID, len(records))
	for i := range records {
		st := &records[i]
		if ids[i] = st.ID; st.Published != nil && st.SnapshotOf == (volume.ID{}) {
			if err := h.db.SetFact(firstFact(st), st.ID[:]); err != nil {
				return err
			}
		}
		h.cfg.Log.Warn("a volume is not kept: the call that made it did not end", "volume", display(st.Tenant, st.Name, st.Snapshot))
	}
	if err := h.forget(ids...); err != nil {
		return err
	}
	for _, fact := range facts {
		if err := h.db.SetFact(fact, nil); err != nil {
			return err
		}
	}
	return nil
}

// findOrphans finds the volumes that this host began to publish, and has no
// record of: nobody was told of them.
func (h *Host) findOrphans() error {
	return h.db.Facts(firstFacts, func(fact string, value []byte) error {
		tenant, name, ok := strings.Cut(strings.TrimPrefix(fact, firstFacts), "/")
		if !ok || len(value) != len(volume.ID{}) || h.disk(volume.ID(value)) != nil {
			return nil
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.orphans[volume.ID(value)] = Name{tenant, name, ""}
		return nil
	})
}

// isOrphan tells whether a log ends in a volume that is being taken out of the
// store; o may be nil.
func (h *Host) isOrphan(o *commitlog.Object) bool {
	if o == nil || o.State.Owner.ID != h.id {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, left := h.orphans[volume.ID(o.State.ID)]
	return left
}
