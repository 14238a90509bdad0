package forward

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

var ctx = context.Background()

func id(n byte) pack.ID { return pack.ID{Content: [12]byte{n}, Nonce: [12]byte{n}} }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// object is a pack's object as far as ranges of it are read.
func object(n byte) []byte { return bytes.Repeat([]byte{n}, 400) }

// bed has pack 1, of which three slots went to packs 2 and 3.
func bed(t *testing.T) (*objstore.Faults, *Store) {
	t.Helper()
	s := objstore.NewFaults(objstore.NewMem(objstore.Clock{}), 1)
	for n := byte(2); n <= 3; n++ {
		check(t, s.PutIfAbsent(ctx, id(n).Key(), object(n)))
	}
	check(t, Create(ctx, s, Forward{From: id(1), To: id(2), Slots: []Slot{{Off: 200, Len: 50, To: 66}, {Off: 16, Len: 50, To: 16}}}))
	check(t, Create(ctx, s, Forward{From: id(1), To: id(3), Slots: []Slot{{Off: 100, Len: 100, To: 200}}}))
	return s, Follow(s)
}

// TestFollow: ranges of a pack that is gone are read from where its slots went.
func TestFollow(t *testing.T) {
	inner, s := bed(t)
	for _, c := range []struct {
		off, n int64
		want   map[int64]byte // byte of the range: what is there
	}{
		{16, 50, map[int64]byte{0: 2, 49: 2}},
		{100, 150, map[int64]byte{0: 3, 99: 3, 100: 2, 149: 2}},
		{40, 160, map[int64]byte{0: 0, 59: 0, 60: 3, 159: 3}}, // the first slot is not whole
	} {
		for range 2 {
			got, err := s.GetRange(ctx, id(1).Key(), c.off, c.n)
			check(t, err)
			for i, b := range c.want {
				if got[i] != b {
					t.Errorf("range %d+%d: byte %d is %d, want %d", c.off, c.n, i, got[i], b)
				}
			}
		}
	}
	if _, err := s.GetRange(ctx, id(1).Key(), 300, 50); !errors.Is(err, errs.NotFound) {
		t.Errorf("a dead slot: %v", err)
	}
	if _, err := s.GetRange(ctx, id(9).Key(), 16, 50); !errors.Is(err, errs.NotFound) {
		t.Errorf("a pack that never was: %v", err)
	}
	// The new pack moves on: its slot is in pack 4.
	check(t, s.PutIfAbsent(ctx, id(4).Key(), object(4)))
	check(t, Create(ctx, s, Forward{From: id(3), To: id(4), Slots: []Slot{{Off: 200, Len: 100, To: 300}}}))
	check(t, s.Delete(ctx, id(3).Key()))
	if got, err := s.GetRange(ctx, id(1).Key(), 100, 100); err != nil || got[0] != 4 || got[99] != 4 {
		t.Errorf("a chain: %v, %v", got, err)
	}
	// A forward that came later than this store's memory of the others.
	check(t, s.PutIfAbsent(ctx, id(5).Key(), object(5)))
	check(t, Create(ctx, s, Forward{From: id(1), To: id(5), Slots: []Slot{{Off: 300, Len: 50, To: 16}}}))
	if got, err := s.GetRange(ctx, id(1).Key(), 300, 50); err != nil || got[0] != 5 {
		t.Errorf("a later forward: %v, %v", got, err)
	}
	inner.Inject(objstore.Fault{Effect: objstore.FailBefore})
	if _, err := s.GetRange(ctx, id(1).Key(), 16, 50); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a store that is away: %v", err)
	}
}

// TestCircle: forwards that lead back are an error, not a loop.
func TestCircle(t *testing.T) {
	_, s := bed(t)
	check(t, Create(ctx, s, Forward{From: id(3), To: id(1), Slots: []Slot{{Off: 200, Len: 100, To: 100}}}))
	check(t, s.Delete(ctx, id(3).Key()))
	if _, err := s.GetRange(ctx, id(1).Key(), 100, 100); !errors.Is(err, errs.Corrupt) {
		t.Error(err)
	}
}

// TestCopies: a slot whose place is damaged has every copy named.
func TestCopies(t *testing.T) {
	_, s := bed(t)
	ref := pack.Ref{Pack: id(1), Off: 100, Len: 100}
	check(t, Create(ctx, s, Forward{From: id(3), To: id(4), Slots: []Slot{{Off: 200, Len: 100, To: 300}}}))
	got, err := s.Copies(ctx, ref)
	check(t, err)
	if want := []pack.Ref{{Pack: id(3), Off: 200, Len: 100}, {Pack: id(4), Off: 300, Len: 100}}; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	ref.Len = 99
	if got, err := s.Copies(ctx, ref); err != nil || len(got) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDamage: a forward of which any bit is changed is refused.
func TestDamage(t *testing.T) {
	f := Forward{From: id(1), To: id(2), Slots: []Slot{{16, 50, 16}, {200, 50, 66}}}
	raw, err := f.Encode()
	check(t, err)
	if back, err := Decode(f.Key(), raw); err != nil || back.From != f.From || back.To != f.To || !slices.Equal(back.Slots, f.Slots) {
		t.Fatalf("%+v, %v", back, err)
	}
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if got, err := Decode(f.Key(), raw); err == nil {
			t.Errorf("bit %d: taken for %+v", bit, got)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	other := Forward{From: id(1), To: id(3)}
	if _, err := Decode(other.Key(), raw); !errors.Is(err, errs.Corrupt) {
		t.Errorf("under another key: %v", err)
	}
	for _, bad := range []Forward{{From: id(1), To: id(2)}, {From: id(1), To: id(1), Slots: f.Slots}, {From: id(1), To: id(2), Slots: []Slot{{16, 50, 16}, {60, 50, 66}}},
		{From: id(1), To: id(2), Slots: []Slot{{0, 50, 16}}}, {From: id(1), To: id(2), Slots: []Slot{{16, 1 << 31, 16}}}, {From: pack.ID{Domain: 1}, To: id(2), Slots: f.Slots}} {
		if _, err := bad.Encode(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v was written", bad)
		}
	}
	for _, key := range []string{f.Key(), Forward{From: pack.ID{Domain: 7, Content: [12]byte{1}}, To: pack.ID{Domain: 7}}.key()} {
		if from, to, ok := ParseKey(key); !ok || (&Forward{From: from, To: to}).Key() != key {
			t.Errorf("%s is not parsed", key)
		}
	}
	for _, key := range []string{"", "forwards/", "forwards/00000000/x/y", f.Key() + "/", "x" + f.Key(), f.Key()[1:]} {
		if _, _, ok := ParseKey(key); ok {
			t.Errorf("%q is taken for a forward's", key)
		}
	}
}

func (f Forward) key() string { return f.Key() }
