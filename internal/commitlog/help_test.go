package commitlog

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

var (
	ctx     = context.Background()
	disk    = Volume{"default", "disk"}
	someDay = time.Date(2026, 11, 22, 12, 34, 56, 789, time.UTC)
)

// tb is what testing.T and rapid.T have in common and is needed here.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func check(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t tb, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want kind %v", err, kind)
	}
}

func newStore() *objstore.Faults {
	return objstore.NewFaults(objstore.NewMem(objstore.Clock{Now: func() time.Time { return someDay }}), 1)
}

// newOwner is an Owner as process n of a host makes it.
func newOwner(t tb, store objstore.Store, host string, n uint64) *Owner {
	t.Helper()
	return ownerOf(t, store, disk, host, n)
}

func ownerOf(t tb, store objstore.Store, vol Volume, host string, n uint64) *Owner {
	t.Helper()
	var seed [32]byte
	copy(seed[8:], host+vol.Name)
	seed[0] = byte(n)
	o, err := New(Options{
		Store: store, Volume: vol, Host: Host{ID: host, Addresses: []string{"tcp:" + host + ":9000"}},
		Rand: rand.NewChaCha8(seed), Now: func() time.Time { return someDay }, Uptime: func() time.Duration { return 0 },
		Pause: func(context.Context, time.Duration) error { return nil },
	})
	check(t, err)
	return o
}

func volumeID(n byte) VolumeID { return VolumeID{0: n, 15: 0xff} }

// someState is a small state; seq tells it from others.
func someState(seq uint64) State {
	return State{
		Identity: Identity{ID: volumeID(1), Cause: CauseFlush},
		Size:     1 << 30, BlockSize: 128 << 10, Durability: "local", CreatedAt: someDay, Seq: seq, Root: someRoot(seq),
	}
}

// someRoot is a root for 8192 blocks.
func someRoot(n uint64) blockmap.Root {
	return blockmap.Root{Ref: pack.Ref{Hash: pack.Hash{byte(n), 1}, Pack: pack.ID{Content: [12]byte{byte(n)}}, Off: 5, Len: uint32(n + 1)}, Height: 3}
}

// opened is an owner that published a volume.
func opened(t tb, store objstore.Store, host string) *Owner {
	t.Helper()
	o := newOwner(t, store, host, 1)
	_, err := o.OpenFirst(ctx, someState(1))
	check(t, err)
	return o
}

func commit(t tb, o *Owner, seq uint64) Generation {
	t.Helper()
	g, err := o.Commit(ctx, someState(seq))
	check(t, err)
	return g
}

// put plants an object, as a request of another time might.
func put(t tb, store objstore.Store, o *Object) {
	t.Helper()
	if o.State.ID.IsZero() {
		o.State = someState(99)
	}
	if o.State.Owner.ID == "" {
		o.State.Owner.ID = "planted"
	}
	if o.State.Name == "" {
		o.State.Tenant, o.State.Name = disk.Tenant, disk.Name
	}
	raw, err := o.Encode()
	check(t, err)
	check(t, store.PutIfAbsent(ctx, o.State.Volume().Key(o.Generation), raw))
}

// stub does what a collector's verdict does to a first object or a seal.
func stub(t tb, store objstore.Store, g Generation) {
	t.Helper()
	o, err := get(ctx, store, disk, g)
	check(t, err)
	raw, err := o.Stub().Encode()
	check(t, err)
	check(t, store.Put(ctx, disk.Key(g), raw))
}

func newest(t tb, store objstore.Store, vol Volume) *Object {
	t.Helper()
	o, err := Newest(ctx, store, vol)
	check(t, err)
	return o
}

// history is the log, oldest first.
func historyOf(t tb, store objstore.Store, vol Volume) (log []*Object) {
	t.Helper()
	check(t, History(ctx, store, vol, Generation{}, 0, func(o *Object) error { log = append(log, o); return nil }))
	slices.Reverse(log)
	return log
}

// shape writes a log down: generation, kind, and sequence number.
func shape(log []*Object) (s []string) {
	for _, o := range log {
		line := o.Generation.String() + " " + o.Kind.String()
		if o.Tombstone {
			line += " tombstone"
		}
		if o.Released {
			line += " released"
		}
		s = append(s, line)
	}
	return s
}

func wantShape(t *testing.T, log []*Object, want ...string) {
	t.Helper()
	if got := shape(log); !slices.Equal(got, want) {
		t.Errorf("the log is %q, want %q", got, want)
	}
}
