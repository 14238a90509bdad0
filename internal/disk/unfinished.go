package disk

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// FirstFact is the key of the fact that names the volume whose first publication under a
// name is in progress. As long as the fact exists, the volume may be in the store, or may
// still appear there, whatever its record says and even if it has no record.
func FirstFact(st *volume.State) string { return "first/" + st.Tenant + "/" + st.Name }

const (
	unfinishedFacts = "unfinished/"
	firstFacts      = "first/" // see FirstFact
)

// BeginCreate records volumes that are about to be created. The caller calls finish once
// they are created or undone.
func (t *Table) BeginCreate(states ...*volume.State) (finish func() error, err error) {
	call := NewVolumeID(t)
	fact := unfinishedFacts + call.String()
	var ids []byte
	t.Mu.Lock()
	for _, st := range states {
		ids = append(ids, st.ID[:]...)
		t.creating[st.ID] = true
	}
	t.Mu.Unlock()
	finish = func() error {
		err := t.DB.SetFact(fact, nil)
		t.Mu.Lock()
		defer t.Mu.Unlock()
		for _, st := range states {
			delete(t.creating, st.ID)
		}
		return err
	}
	if err := t.DB.SetFact(fact, ids); err != nil {
		return finish, errors.Join(err, finish())
	}
	return finish, nil
}

// RefuseWhileCreated returns an error while the call that creates the volume is in
// progress. If the host stopped during that call, the volume would be dropped, together
// with the writes that its guests had seen acknowledged.
func (d *Disk) RefuseWhileCreated() error {
	d.Table.Mu.Lock()
	defer d.Table.Mu.Unlock()
	if d.Table.creating[d.ID] {
		return errs.New(errs.Busy, "volume %q is still being created", d)
	}
	return nil
}

// unfinishedCreates returns the volumes of calls that did not finish before the host
// stopped.
func (t *Table) unfinishedCreates() (ids map[volume.ID]bool, facts []string, err error) {
	ids = map[volume.ID]bool{}
	err = t.DB.Facts(unfinishedFacts, func(name string, value []byte) error {
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

// dropUnfinishedCreates removes the records of volumes whose call did not finish. The
// fact that they may be in the store is kept.
func (t *Table) dropUnfinishedCreates(records []volume.State, facts []string) error {
	ids := make([]volume.ID, len(records))
	for i := range records {
		st := &records[i]
		if ids[i] = st.ID; st.Published != nil && st.SnapshotOf == (volume.ID{}) {
			if err := t.DB.SetFact(FirstFact(st), st.ID[:]); err != nil {
				return err
			}
		}
		t.Log.Warn("a volume is not kept: the call that created it did not finish", "volume", Display(st.Tenant, st.Name, st.Snapshot))
	}
	if err := t.Forget(ids...); err != nil {
		return err
	}
	for _, fact := range facts {
		if err := t.DB.SetFact(fact, nil); err != nil {
			return err
		}
	}
	return nil
}

// findOrphans finds the volumes that this host began to publish but has no record of. No
// caller was told that they exist.
func (t *Table) findOrphans() error {
	return t.DB.Facts(firstFacts, func(fact string, value []byte) error {
		tenant, name, ok := strings.Cut(strings.TrimPrefix(fact, firstFacts), "/")
		if !ok || len(value) != len(volume.ID{}) || t.ByID(volume.ID(value)) != nil {
			return nil
		}
		t.Mu.Lock()
		defer t.Mu.Unlock()
		t.Orphans[volume.ID(value)] = Name{tenant, name, ""}
		return nil
	})
}

// IsOrphan reports whether a log ends in a volume that is being removed from the store. o
// may be nil.
func (t *Table) IsOrphan(o *commitlog.Object) bool {
	if o == nil || o.State.Owner.ID != t.HostID {
		return false
	}
	t.Mu.Lock()
	defer t.Mu.Unlock()
	_, left := t.Orphans[volume.ID(o.State.ID)]
	return left
}

// OrphanNames returns the orphans with their names in the store.
func (t *Table) OrphanNames() map[volume.ID]Name {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	return maps.Clone(t.Orphans)
}

// ForgetOrphan removes an orphan that has left the store, or that is to stay there.
func (t *Table) ForgetOrphan(id volume.ID) {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	delete(t.Orphans, id)
}

// NamesBegun returns the names other than name under which this host may have begun to
// publish the volume.
func (t *Table) NamesBegun(id volume.ID, name string) (names []Name, err error) {
	err = t.DB.Facts(firstFacts, func(fact string, value []byte) error {
		tenant, other, ok := strings.Cut(strings.TrimPrefix(fact, firstFacts), "/")
		if ok && other != name && len(value) == len(id) && volume.ID(value) == id {
			names = append(names, Name{tenant, other, ""})
		}
		return nil
	})
	return names, err
}
