package commitlog

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

func samplePins(t tb) []Pin {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{})
	pin := func(kind PinKind, fill func(*Pin)) Pin {
		p, err := NewPin(rng, "host-a", kind, someDay)
		check(t, err)
		fill(&p)
		return p
	}
	key := disk.Key(Generation{3, 10})
	return []Pin{
		pin(PinSession, func(p *Pin) { p.Nonce = SessionNonce{1, 2, 3} }),
		pin(PinPacks, func(p *Pin) { p.Packs = []PackName{{Content: [12]byte{1}}, PackName(pack.ID{Nonce: [12]byte{9}})} }),
		pin(PinFork, func(p *Pin) { p.Commit = key }),
		pin(PinChildren, func(p *Pin) { p.Commits = []string{key}; p.Roots = []blockmap.Root{someRoot(1), {}} }),
	}
}

// domainPins name packs of domains other than 0.
func domainPins(t tb) []Pin {
	t.Helper()
	pins := samplePins(t)
	pins[1].Packs = append(pins[1].Packs, PackName{Domain: 0x2a, Content: [12]byte{1}})
	pins[3].Roots = append(pins[3].Roots, domainRoot(1, 0x2a))
	return []Pin{pins[1], pins[3]}
}

func TestPinGolden(t *testing.T) {
	test := func(name string, p Pin) {
		raw, err := p.Encode()
		check(t, err)
		golden(t, name+".json", string(raw)+"\n")
		back, err := DecodePin(raw)
		check(t, err)
		if !reflect.DeepEqual(back, p) {
			t.Errorf("came back as %+v, was %+v", back, p)
		}
	}
	for _, p := range samplePins(t) {
		test("pin-"+string(p.Kind), p)
	}
	for _, p := range domainPins(t) {
		test("pin-domain-"+string(p.Kind), p)
	}
}

func TestPinRefuses(t *testing.T) {
	for _, p := range []Pin{
		{},
		{Host: "a", ID: PinID{1}, Kind: PinSession},
		{Host: "a", ID: PinID{1}, Kind: PinPacks, Commit: disk.Key(Generation{1, 1})},
		{Host: "a", ID: PinID{1}, Kind: "other", Commit: disk.Key(Generation{1, 1})},
		{Host: "a", ID: PinID{1}, Kind: PinFork, Commit: "x"},
		{Host: "a/b", ID: PinID{1}, Kind: PinFork, Commit: disk.Key(Generation{1, 1})},
		{Host: "a", Kind: PinFork, Commit: disk.Key(Generation{1, 1})},
		{Host: "a", ID: PinID{1}, Kind: PinPacks, Packs: make([]PackName, 30000)},
	} {
		_, err := p.Encode()
		wantKind(t, err, errs.Invalid)
	}
	fork := samplePins(t)[2]
	raw, err := fork.Encode()
	check(t, err)
	_, err = DecodePin(bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":3`), 1))
	wantKind(t, err, errs.Unsupported)
	for _, change := range [][2]string{
		{`"version":1`, `"version":0`}, {"glide-pin", "glide-pan"}, {"host-a", "host/a"}, {`"kind":"fork"`, `"kind":"knife"`}, {"{", "["},
		{`"id":"`, `"id":"0`},
	} {
		_, err := DecodePin(bytes.Replace(raw, []byte(change[0]), []byte(change[1]), 1))
		wantKind(t, err, errs.Corrupt)
	}
}

// TestPackNamesAreStrict: a pack has one name, and a pin with a domain one version.
func TestPackNamesAreStrict(t *testing.T) {
	const name, hash = `"0000002a.010000000000000000000000-000000000000000000000000"`, "010000000000000000000000-000000000000000000000000"
	raw, err := domainPins(t)[0].Encode()
	check(t, err)
	if !bytes.Contains(raw, []byte(name)) || !bytes.Contains(raw, []byte(`"`+hash+`"`)) {
		t.Fatalf("%s does not name the packs", raw)
	}
	for _, bad := range []string{
		"00000000." + hash, "2a." + hash, "0000002A." + hash, "+000002a." + hash, "10000002a." + hash, "0000002a.0000002a." + hash, "." + hash,
		"0000002a-" + hash, "0000002a." + hash[1:], "0000002a.0" + hash, "0000002a." + hash + " ", "0000002a.", "", "0000002a/" + hash,
		"0000002a." + strings.Replace(hash, "-", ".", 1), "d/0000002a/packs/01/" + hash,
	} {
		_, err := DecodePin(bytes.Replace(raw, []byte(name), []byte(`"`+bad+`"`), 1))
		wantKind(t, err, errs.Corrupt)
	}
	plain, err := samplePins(t)[1].Encode()
	check(t, err)
	capital := bytes.Replace(plain, []byte("-09"), []byte("-0A"), 1)
	for _, bad := range [][]byte{
		capital, bytes.Replace(plain, []byte(`"version":1`), []byte(`"version":2`), 1), bytes.Replace(raw, []byte(`"version":2`), []byte(`"version":1`), 1),
	} {
		_, err := DecodePin(bad)
		wantKind(t, err, errs.Corrupt)
	}
}

func TestPins(t *testing.T) {
	store := newStore()
	pins := samplePins(t)
	pins[3].Host = "host-b"
	store.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.FailAfter})
	wantKind(t, CreatePin(ctx, store, pins[0]), errs.Unavailable)
	for _, p := range pins {
		check(t, CreatePin(ctx, store, p))
	}
	list := func(host string) (kinds string) {
		check(t, Pins(ctx, store, host, func(p Pin) error { kinds += string(p.Kind) + " "; return nil }))
		return kinds
	}
	if got := list(""); len(strings.Fields(got)) != 4 {
		t.Errorf("the pins are %q", got)
	}
	if got := list("host-b"); got != "local-children " {
		t.Errorf("the pins of host-b are %q", got)
	}
	check(t, DropPin(ctx, store, pins[3]))
	check(t, DropPin(ctx, store, pins[3]))
	if got := list("host-b"); got != "" {
		t.Errorf("the pins of host-b are %q", got)
	}
	check(t, store.Put(ctx, "pins/host-a/ffffffffffffffffffffffffffffffff", []byte("junk")))
	err := Pins(ctx, store, "", func(Pin) error { return nil })
	wantKind(t, err, errs.Corrupt)
	if !strings.Contains(err.Error(), "pins/host-a/ffff") {
		t.Errorf("%q does not name the pin", err)
	}
}

func FuzzDecodePin(f *testing.F) {
	for _, p := range append(samplePins(f), domainPins(f)...) {
		raw, err := p.Encode()
		check(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Pin
		var err error
		fuzztest.Bound(t, len(raw), 0, 64, func() { p, err = DecodePin(raw) })
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			// Only an unreadable time, or escapes that make it longer, may be in the way.
			if _, err := json.Marshal(p); err == nil && len(raw) < maxPin/6 {
				t.Errorf("it can be read, not written")
			}
			return
		}
		if _, err := DecodePin(again); err != nil {
			t.Errorf("it can be read once only: %v", err)
		}
	})
}

func TestFork(t *testing.T) {
	parent := fullState()
	child := parent.Fork("child", volumeID(9), Generation{4, 3}, someDay)
	want := State{
		Identity: Identity{ID: volumeID(9), Tenant: "acme", Name: "child", Cause: CauseFork},
		Size:     parent.Size, BlockSize: parent.BlockSize, Durability: "local", CreatedAt: someDay,
		Parent: &Parent{Name: "db", ID: volumeID(7), Generation: Generation{4, 3}, Root: parent.Root.Ref.Hash.String()},
		Root:   parent.Root, Seq: parent.Seq, DataCommits: parent.DataCommits, DataSeq: parent.DataSeq,
		BlocksMapped: parent.BlocksMapped, StoredBytes: parent.StoredBytes,
	}
	if !reflect.DeepEqual(child, want) {
		t.Errorf("the fork is %+v, want %+v", child, want)
	}
}
