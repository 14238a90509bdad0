package host

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
)

// held is a store whose puts of packs wait, and with holdLogs those of commits.
type held struct {
	objstore.Store
	begun    atomic.Int64
	open     chan struct{}
	holdLogs atomic.Bool
	heldLogs atomic.Int64
	openLogs chan struct{}
}

func (s *held) PutIfAbsent(ctx context.Context, key string, b []byte) error {
	if s.holdLogs.Load() && strings.Contains(key, "/log/") {
		s.heldLogs.Add(1)
		select {
		case <-s.openLogs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Store.PutIfAbsent(ctx, key, b)
}

func (s *held) Put(ctx context.Context, key string, b []byte) error {
	if isPack(key) {
		s.begun.Add(1)
		select {
		case <-s.open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Store.Put(ctx, key, b)
}

// TestVerbsDuringAnUpload: while the packs of bulk are being uploaded, another commit says
// a new policy, label or size, the volume is forked, snapshotted, or taken over. The data
// commits that follow do not take it back, and what was flushed is in the store.
func TestVerbsDuringAnUpload(t *testing.T) {
	for name, verb := range map[string]func(t *testing.T, h *Host) (tip func(s *commitlog.State) bool){
		"looser policy": func(t *testing.T, h *Host) func(*commitlog.State) bool {
			must[api.Volume](t)(h.Set(ctx, "v", api.Settings{"durability": "continuous", "rpo": "3s"}))
			return func(s *commitlog.State) bool { return s.Durability == "continuous" && s.RPOMillis == 3000 }
		},
		"local": func(t *testing.T, h *Host) func(*commitlog.State) bool {
			must[api.Volume](t)(h.Set(ctx, "v", api.Settings{"durability": "local"}))
			return func(s *commitlog.State) bool { return s.Durability == "local" }
		},
		"label": func(t *testing.T, h *Host) func(*commitlog.State) bool {
			must[api.Volume](t)(h.Set(ctx, "v", api.Settings{"label.a": "b"}))
			return func(s *commitlog.State) bool { return s.Labels["a"] == "b" }
		},
		"resize": func(t *testing.T, h *Host) func(*commitlog.State) bool {
			must[api.Volume](t)(h.Resize(ctx, "v", 64<<20))
			return func(s *commitlog.State) bool { return s.Size == 64<<20 }
		},
		"snapshot": func(t *testing.T, h *Host) func(*commitlog.State) bool {
			must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
			return func(s *commitlog.State) bool { return len(s.Snapshots) <= 1 }
		},
		"fork": func(t *testing.T, h *Host) func(*commitlog.State) bool {
			must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"}))
			return func(*commitlog.State) bool { return true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			s := &held{Store: b.store, open: make(chan struct{}), openLogs: make(chan struct{})}
			b.store = s
			h := b.host(t.TempDir(), "a")
			must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 32 << 20, Durability: "sync"}))
			dev := guest(t, h, "v")
			image := random(1, 6<<20)
			flushed := make(chan error, 2)
			for at := 0; at < len(image); at += 3 << 20 {
				if err := guestWrite(dev, uint64(at), image[at:][:3<<20]); err != nil {
					t.Fatal(err)
				}
				begun := s.begun.Load()
				go func() { flushed <- dev.Flush() }()
				for s.begun.Load() == begun {
					time.Sleep(time.Millisecond)
				}
			}
			// The verb's commit is on its way when the data commits are sent after it.
			s.holdLogs.Store(true)
			time.AfterFunc(50*time.Millisecond, func() { close(s.open) })
			time.AfterFunc(100*time.Millisecond, func() { close(s.openLogs) })
			said := verb(t, h)
			for range 2 {
				if err := <-flushed; err != nil {
					t.Fatal(err)
				}
			}
			must[api.Flush](t)(h.Flush(ctx, "v"))
			tip, got, err := published(b.store, "v")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[:len(image)], image) {
				t.Error("the store has not what was flushed")
			}
			if !said(&tip.State) {
				t.Errorf("the store says %+v", tip.State)
			}
		})
	}
}

// TestTakeoverDuringAnUpload: a host is fenced while it uploads packs. It acknowledges no
// flush of them, and keeps the writes as a rescue volume.
func TestTakeoverDuringAnUpload(t *testing.T) {
	b := newBed(t)
	s := &held{Store: b.store, open: make(chan struct{})}
	b.store = s
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	dev := guest(t, h, "v")
	first := random(1, 64<<10)
	if err := guestWrite(dev, 0, first); err != nil {
		t.Fatal(err)
	}
	if err := dev.Flush(); err != nil {
		t.Fatal(err)
	}
	bulk := random(2, 2<<20)
	if err := guestWrite(dev, 0, bulk); err != nil {
		t.Fatal(err)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- dev.Flush() }()
	for s.begun.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	close(s.open)
	if err := <-flushed; err == nil {
		t.Error("a fenced host acknowledged a flush")
	}
	same(t, h2, "v", 0, first)
	rescue := ""
	for rescue == "" {
		for _, v := range must[[]api.Volume](t)(h.List(ctx, false)) {
			if strings.Contains(v.Name, ".rescue-") {
				rescue = v.Name
			}
		}
		time.Sleep(time.Millisecond)
	}
	same(t, h, rescue, 0, bulk)
}

// TestReusedPacksStayPinned: packs of an earlier session are pinned from before the data
// commit that names them is sent until it has taken effect. reachable-is-kept.
func TestReusedPacksStayPinned(t *testing.T) {
	b := newBed(t)
	s := &held{Store: b.store, open: make(chan struct{}), openLogs: make(chan struct{})}
	b.store = s
	close(s.open)
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	p := random(1, 2<<20)
	write := func(off uint64) error {
		dev := guest(t, h, "v")
		if err := guestWrite(dev, off, p); err != nil {
			return err
		}
		return dev.Flush()
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a")
	// The claim of this process must be made before commits are held.
	if err := guestWrite(guest(t, h, "v"), 7<<20, p[:512]); err != nil {
		t.Fatal(err)
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	pinned := func() (n int) {
		err := pinobject.List(ctx, b.store, h.disks.HostID, func(pin pinobject.Pin) error {
			n += len(pin.Packs)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	s.holdLogs.Store(true)
	flushed := make(chan error, 1)
	go func() { flushed <- write(4 << 20) }()
	for s.heldLogs.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if pinned() == 0 {
		t.Error("the data commit is sent, and the packs that it names are not pinned")
	}
	close(s.openLogs)
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); pinned() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the packs stay pinned")
		}
	}
}
