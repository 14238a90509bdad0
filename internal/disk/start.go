package disk

import (
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// OpenAll reads all records, claims the log segments that they name, and opens the
// volumes that were active, before any segment is recycled. It reports its progress to
// starting.
func (t *Table) OpenAll(starting func(format string, args ...any)) error {
	t.overlays = volume.NewSharedOverlays()
	defer func() { t.overlays = nil }()
	gone, facts, err := t.unfinishedCreates()
	if err != nil {
		return err
	}
	var all []*Disk
	var unfinished []volume.State
	err = t.DB.Volumes(func(r meta.Record) error {
		var st volume.State
		if err := json.Unmarshal(r.Value, &st); err != nil {
			return errs.New(errs.Corrupt, "the record of volume %s cannot be read: %w", r.ID, err)
		}
		if err := st.Validate(); err != nil {
			return err
		}
		if st.Loading {
			// The host stopped while the volume was being fetched. The store has all of
			// it.
			t.forgetLater(t.Forget(st.ID))
			return nil
		}
		if gone[st.ID] || gone[st.SnapshotOf] {
			unfinished = append(unfinished, st)
			return nil
		}
		all = append(all, New(t, st))
		return nil
	})
	if err != nil {
		return err
	}
	t.forgetLater(t.dropUnfinishedCreates(unfinished, facts))
	if err := t.startAll(all, starting); err != nil {
		return err
	}
	return t.findOrphans()
}

// forgetLater logs that the records of dropped volumes could not be removed, for instance
// because the disk is full. The next start removes them.
func (t *Table) forgetLater(err error) {
	if err != nil {
		t.Log.Warn("records of volumes that are not kept could not be removed; the next start tries again", "error", err)
	}
}

// startAll starts the disks. Forks that were never acknowledged are durably removed
// first: their parents must not go on before that.
func (t *Table) startAll(all []*Disk, starting func(format string, args ...any)) error {
	names := map[volume.ID]string{}
	for _, d := range all {
		names[d.ID] = d.rec.Name
	}
	var sure, early []*Disk
	for _, d := range all {
		// An interrupted rename may have reached only some of the records. A snapshot has
		// the name of its volume.
		if name, ok := names[d.rec.SnapshotOf]; ok {
			d.rec.Name = name
		}
		if d.rec.Unsynced == (volume.ID{}) {
			sure = append(sure, d)
		} else {
			early = append(early, d)
		}
	}
	t.startThese(sure, starting)
	var gone []volume.ID
	kept := early[:0:0]
	for _, d := range early {
		var parent *volume.Volume
		if p := t.disks[d.rec.Unsynced]; p != nil {
			parent = p.Volume()
		}
		if !d.rec.Counts(parent) && !fault.Is("early-fork-counts") {
			gone = append(gone, d.ID)
			continue
		}
		d.rec.Unsynced = volume.ID{}
		if err := t.saveSoon(&d.rec); err != nil {
			return err
		}
		kept = append(kept, d)
	}
	if len(gone) > 0 {
		if err := t.Forget(gone...); err != nil {
			return err
		}
	}
	t.startThese(kept, starting)
	return nil
}

// startThese adds disks to the table and starts them, four at a time.
func (t *Table) startThese(disks []*Disk, starting func(format string, args ...any)) {
	for _, d := range disks {
		t.Register(d)
	}
	var wg sync.WaitGroup
	var opened atomic.Int64
	slots := make(chan struct{}, 4)
	for _, d := range disks {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			d.start()
			starting("opened %d of %d volumes and snapshots", opened.Add(1), len(disks))
		})
	}
	wg.Wait()
}
