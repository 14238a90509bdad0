package host

import (
	"fmt"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/volume"
)

func (w *crashWorld) name() string {
	w.names++
	return fmt.Sprintf("v%d", w.names)
}

func (w *crashWorld) create() {
	d := &modelDisk{name: w.name(), size: uint64(2+w.r.IntN(3)) * crashBlock, stored: -1, snaps: map[string]modelSnap{}, maybe: true}
	if w.r.IntN(2) == 0 {
		d.size -= 512 * (1 + w.r.Uint64N(100)) // the last block is partial
	}
	d.start = make([]byte, d.size)
	w.model(func() { w.disks = append(w.disks, d) })
	v, err := w.h.Create(ctx, api.CreateRequest{Name: d.name, Size: d.size})
	if w.done("create", err) {
		w.model(func() { d.id, d.maybe = v.ID, false })
	}
}

// step does one random thing.
func (w *crashWorld) step() {
	w.model(func() {
		if len(w.late) > 0 && w.r.IntN(6) == 0 { // a dead host's request arrives
			_ = w.late[0]()
			w.late = w.late[1:]
		}
	})
	if len(w.disks) < 2 {
		w.create()
		return
	}
	d := w.disks[w.r.IntN(len(w.disks))]
	switch k := w.r.IntN(100); {
	case k < 42:
		w.write(d)
	case k < 50:
		off := w.r.Uint64N(d.size)
		o := crashOp{off: off, n: 1 + w.r.Uint64N(min(d.size-off, 2*crashBlock))}
		w.apply(d, o, func(v *volume.Volume) error { return v.Zero(o.off, o.n) })
	case k < 62 && d.policy == volume.Sync:
		w.guestFlush(d)
	case k < 62:
		n := len(d.ops)
		if v := w.vol(d); v != nil && w.done("volume flush", v.Flush()) {
			w.model(func() { d.flushed = max(d.flushed, n) })
		}
	case k < 72:
		w.flush(d)
	case k < 78:
		w.fork(d)
	case k < 82:
		w.snapshot(d)
	case k < 84:
		w.rollback(d)
	case k < 88:
		n := len(d.ops)
		if _, err := w.h.Sleep(w.life, d.name, false, false); w.done("sleep", err) {
			w.model(func() { d.flushed = max(d.flushed, n) })
		}
	case k < 90:
		_, err := w.h.Wake(ctx, d.name, false, "")
		w.done("wake", err)
	case k < 92:
		w.rename(d, w.name())
	case k < 93:
		w.remove(d)
	case k < 96:
		w.setPolicy(d)
	default:
		w.clean()
	}
}

// vol returns the volume, and wakes it if it sleeps. It returns nil if there is no power
// to wake it.
func (w *crashWorld) vol(d *modelDisk) *volume.Volume {
	x, err := w.h.disks.Local(d.name, false)
	w.must(err)
	x.Op.Lock()
	defer x.Op.Unlock()
	v, err := x.Wake(false)
	if !w.done("wake", err) {
		return nil
	}
	return v
}

// apply adds an op to the model before the engine sees it: after a crash it may be there.
func (w *crashWorld) apply(d *modelDisk, o crashOp, do func(*volume.Volume) error) {
	v := w.vol(d)
	if v == nil {
		return
	}
	w.model(func() { d.ops = append(d.ops, o) })
	w.done("write", do(v))
}

func (w *crashWorld) write(d *modelDisk) {
	n := 1 + w.r.Uint64N(16<<10)
	switch w.r.IntN(8) {
	case 0:
		n = 1 + w.r.Uint64N(crashBlock+crashBlock/2)
	case 1, 2, 3:
		n = 4096
	}
	off := w.r.Uint64N(d.size - n)
	if n == 4096 {
		off &^= 4095
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(w.r.Uint32() | 1)
	}
	w.apply(d, crashOp{off, n, data}, func(v *volume.Volume) error { return v.WriteAt(data, off) })
}

func (w *crashWorld) flush(d *modelDisk) {
	n := len(d.ops)
	if _, err := w.h.Flush(w.life, d.name); w.done("flush", err) {
		w.model(func() { d.flushed, d.stored = max(d.flushed, n), n })
	}
}

// guestFlush is a guest's FLUSH of a sync volume: then the store has everything.
func (w *crashWorld) guestFlush(d *modelDisk) {
	n := len(d.ops)
	e, err := w.h.exports.Open(d.name)
	if !w.done("connect", err) {
		return
	}
	defer e.Closed()
	done := make(chan error, 1)
	go func() { done <- e.Device.Flush() }()
	select { // without power it waits for a store that never responds
	case err = <-done:
	case <-w.life.Done():
		err = w.life.Err()
	}
	if w.done("guest's flush", err) {
		w.model(func() { d.flushed, d.stored = max(d.flushed, n), max(d.stored, n) })
	}
}

// setPolicy changes a volume's policy. A tighter policy publishes first.
func (w *crashWorld) setPolicy(d *modelDisk) {
	n, to := len(d.ops), []string{volume.Local, volume.Continuous, volume.Sync}[w.r.IntN(3)]
	_, err := w.h.Set(w.life, d.name, api.Settings{"durability": to, "rpo": "200ms"})
	if !w.done("set", err) {
		return
	}
	w.model(func() {
		if to == volume.Sync && d.policy != volume.Sync || to == volume.Continuous && (d.policy == "" || d.policy == volume.Local) {
			d.flushed, d.stored = max(d.flushed, n), max(d.stored, n)
		}
		d.policy = to
	})
}

// fork: the child is a cut of its parent, whatever happens to the parent.
func (w *crashWorld) fork(d *modelDisk) {
	if len(w.disks) >= 4 {
		return
	}
	n := len(d.ops)
	source, content := d.name, d.content(n)
	for s, snap := range d.snaps {
		if w.r.IntN(2) == 0 {
			source, content = d.name+"@"+s, snap.content
			break
		}
	}
	kid := &modelDisk{name: w.name(), size: d.size, start: content, stored: -1, snaps: map[string]modelSnap{}, maybe: true}
	w.model(func() { w.disks = append(w.disks, kid) })
	fs, err := w.h.Fork(ctx, api.ForkRequest{Source: source, Name: kid.name})
	if w.done("fork", err) {
		w.model(func() { kid.id, kid.maybe = fs[0].ID, false })
	}
}

func (w *crashWorld) snapshot(d *modelDisk) {
	if len(d.snaps) >= 3 {
		return
	}
	name, n := "s"+w.name(), len(d.ops)
	s := modelSnap{d.content(n), true}
	w.model(func() { d.snaps[name] = s })
	if _, err := w.h.Snapshot(ctx, d.name, name, ""); w.done("snapshot", err) {
		w.model(func() { d.snaps[name] = modelSnap{s.content, false} })
	}
}

func (w *crashWorld) rollback(d *modelDisk) {
	for s, snap := range d.snaps {
		w.model(func() { d.ops = append(d.ops, crashOp{0, d.size, snap.content}) })
		n := len(d.ops)
		if _, err := w.h.Rollback(ctx, d.name, s, false); w.done("rollback", err) {
			w.model(func() { d.flushed = max(d.flushed, n) })
		}
		return
	}
}

func (w *crashWorld) rename(d *modelDisk, to string) {
	w.model(func() { d.renaming = to })
	if _, err := w.h.Rename(ctx, d.name, to); w.done("rename", err) {
		w.model(func() { d.name, d.renaming = to, "" })
	}
}

func (w *crashWorld) remove(d *modelDisk) {
	w.model(func() { d.removing = true })
	if err := w.h.Remove(ctx, d.name, false); w.done("remove", err) {
		w.model(func() {
			w.removed[d.id] = d.name
			for i, x := range w.disks {
				if x == d {
					w.disks = append(w.disks[:i:i], w.disks[i+1:]...)
				}
			}
		})
	}
}

func (w *crashWorld) clean() {
	var vols []*volume.Volume
	for _, d := range w.h.disks.All() {
		if v := d.Volume(); v != nil {
			vols = append(vols, v)
		}
	}
	w.h.disks.Cleaning.Lock()
	defer w.h.disks.Cleaning.Unlock()
	for _, vs := range volume.FindVictims(vols, 0.95, 3) {
		done, err := volume.Clean(w.h.disks.WAL, vs)
		if w.done("clean", err) && done {
			return
		}
	}
}
