package disk

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// Defaults of a volume.
const (
	DefaultBlockSize = 128 << 10
	DefaultRPO       = 5 * time.Second
	Local            = "local"
)

// DomainName is how the domain of a volume is called; see commitlog.DomainName.
func DomainName(st *volume.State) string { return commitlog.DomainName(st.Tenant, st.Isolated) }

// NewState returns the record of an empty volume.
func (t *Table) NewState(n Name, size uint64) volume.State {
	return volume.State{
		Version: 1, ID: NewVolumeID(t), Tenant: n.Tenant, Name: n.Volume, CreatedAt: t.Now().UTC(),
		Size: size, BlockSize: DefaultBlockSize, Mode: volume.Active, Durability: Local, RPO: DefaultRPO,
	}
}

// Forget durably removes the records of volumes.
func (t *Table) Forget(ids ...volume.ID) error {
	if len(ids) == 0 {
		return nil
	}
	gone := make([]meta.Record, len(ids))
	for i, id := range ids {
		gone[i] = RecordGone(id)
	}
	return t.DB.SaveVolumes(gone...)
}

// Update changes the disk's record and makes it durable, whether the disk is open or not.
// It is for changes that report what has already happened: they stay in memory even if
// the save fails.
func (d *Disk) Update(change func(*volume.State)) error {
	if v := d.Volume(); v != nil {
		return v.Update(change)
	}
	return d.updateClosed(change)
}

// Change is Update for what a user asks for: if it fails, nothing has changed.
func (d *Disk) Change(change func(*volume.State)) error {
	if v := d.Volume(); v != nil {
		return v.Change(change)
	}
	return d.updateClosed(change)
}

func (d *Disk) updateClosed(change func(*volume.State)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.rec
	if d.gone { // its record must not come back
		return errs.New(errs.NotFound, "volume %q was removed", Display(st.Tenant, st.Name, st.Snapshot))
	}
	change(&st)
	if err := d.Table.Save(&st); err != nil {
		return err
	}
	d.rec = st
	return nil
}

// Roll begins another epoch of a volume whose owner is this process, and records that it is
// the newest: the one before goes past retention. Of any other volume it is errs.NotFound.
func (d *Disk) Roll(ctx context.Context) error {
	d.Op.Lock()
	defer d.Op.Unlock()
	if d.Owner == nil || d.Owner.Generation().IsZero() {
		return errs.New(errs.NotFound, "volume %q is not of this process", d)
	}
	if err := d.Owner.Roll(ctx); err != nil {
		return err
	}
	g := d.Owner.Generation()
	return d.Update(func(s *volume.State) { s.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number} })
}

// NewVolumeID returns a random id.
func NewVolumeID(t *Table) (id volume.ID) {
	b := make([]byte, 0, len(id))
	for len(b) < len(id) {
		n := t.Random64()
		for i := range 8 {
			b = append(b, byte(n>>(8*i)))
		}
	}
	copy(id[:], b)
	return id
}

// ShortID returns the first 8 hex digits of an id, for names that are derived from it.
func ShortID(id volume.ID) string { return hex.EncodeToString(id[:4]) }

// Save makes records durable.
func (t *Table) Save(states ...*volume.State) error {
	recs, err := recordsFor(states)
	if err != nil {
		return err
	}
	t.Hooks.Saved()
	return t.DB.SaveVolumes(recs...)
}

// saveSoon saves records without waiting until they are durable.
func (t *Table) saveSoon(states ...*volume.State) error {
	recs, err := recordsFor(states)
	if err != nil {
		return err
	}
	return t.DB.SaveVolumesSoon(recs...)
}

func recordsFor(states []*volume.State) (recs []meta.Record, err error) {
	recs = make([]meta.Record, len(states))
	for i, st := range states {
		if recs[i], err = recordFor(st); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

func recordFor(st *volume.State) (meta.Record, error) {
	b, err := json.Marshal(st)
	if err != nil {
		return meta.Record{}, fmt.Errorf("encode the record of %s: %w", st.Name, err)
	}
	return meta.Record{ID: st.ID.String(), Value: b}, nil
}

// RPOOf returns the rpo of a published state. A fork's state may leave it out; then it is
// DefaultRPO.
func RPOOf(s *commitlog.State) time.Duration {
	return cmp.Or(time.Duration(s.RPOMillis)*time.Millisecond, DefaultRPO)
}

// CommitState returns a disk's state in the form of a commit, without what a fold
// determines.
func (t *Table) CommitState(st *volume.State, cause commitlog.Cause) commitlog.State {
	s := commitlog.State{
		Identity: commitlog.Identity{ID: commitlog.VolumeID(st.ID), Tenant: st.Tenant, Name: st.Name, Isolated: st.Isolated, Cause: cause},
		Size:     st.Size, BlockSize: st.BlockSize, Durability: st.Durability, RPOMillis: st.RPO.Milliseconds(),
		Labels: st.Labels, Limits: commitlog.Limits(st.Limits), CreatedAt: st.CreatedAt, Keep: st.Keep,
		Root: st.Root, Seq: st.Folded, ImportDigest: st.ImportDigest,
	}
	if st.Parent != nil {
		g, _ := commitlog.ParseGeneration(st.Parent.Generation) // zero if it was never published
		tenant, name := parentIn(st.Tenant, st.Parent.Name)
		s.Parent = &commitlog.Parent{Tenant: tenant, Name: name, ID: commitlog.VolumeID(st.Parent.ID), Generation: g, Root: st.Parent.Root}
	}
	return s
}

// Generation returns the generation of a record's newest commit, or zero if there is
// none.
func Generation(p *volume.Published) commitlog.Generation {
	if p == nil {
		return commitlog.Generation{}
	}
	return commitlog.Generation{Epoch: p.Epoch, Number: p.Number}
}

// RecordGone is the change that removes a record.
func RecordGone(id volume.ID) meta.Record { return meta.Record{ID: id.String()} }

// TakeSnapshot turns a published state into the state of one of its snapshots.
func TakeSnapshot(s *commitlog.State, snap *commitlog.Snapshot) {
	s.Root, s.Size, s.Seq = snap.Root, snap.Size, snap.Seq
	s.DataCommits, s.DataSeq = nil, 0
}

// RecordOf returns the record of a volume that starts from the published state s.
func RecordOf(s *commitlog.State, id volume.ID) volume.State {
	st := volume.State{
		Version: 1, ID: id, Tenant: s.Tenant, Name: s.Name, Isolated: s.Isolated, CreatedAt: s.CreatedAt, Size: s.Size, BlockSize: s.BlockSize,
		Mode: volume.Active, Durability: s.Durability, RPO: RPOOf(s),
		Limits: volume.Limits(s.Limits), Labels: s.Labels, Keep: s.Keep, ImportDigest: s.ImportDigest,
		Root: s.Root, Folded: s.Seq, Floor: s.Through(), Used: s.Through(), Shipped: s.Through(),
	}
	st.RootBlocks = st.Blocks()
	if s.Parent != nil {
		st.Parent = &volume.Parent{Name: ParentName(s.Tenant, s.Parent), ID: volume.ID(s.Parent.ID), Root: s.Parent.Root}
		if !s.Parent.Generation.IsZero() {
			st.Parent.Generation = s.Parent.Generation.String()
		}
	}
	return st
}
