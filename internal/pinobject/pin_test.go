package pinobject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sealed"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	ctx     = context.Background()
	someDay = time.Date(2026, 11, 22, 12, 34, 56, 789, time.UTC)
	// commitKey is the key of a commit.
	commitKey = commitlog.Volume{Tenant: "default", Name: "disk"}.Key(commitlog.Generation{Epoch: 3, Number: 10})
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want kind %v", err, kind)
	}
}

// someRoot is a root for 8192 blocks.
func someRoot(n uint64) blockmap.Root {
	return blockmap.Root{Ref: pack.Ref{Hash: pack.Hash{byte(n), 1}, Pack: pack.ID{Content: [12]byte{byte(n)}}, Off: 5, Len: uint32(n + 1)}, Height: 3}
}

func samplePins(t testing.TB) []Pin {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{})
	pin := func(kind Kind, fill func(*Pin)) Pin {
		p, err := New(rng, "host-a", kind, someDay)
		check(t, err)
		fill(&p)
		return p
	}
	return []Pin{
		pin(Session, func(p *Pin) { p.Nonce = Nonce{1, 2, 3} }),
		pin(Packs, func(p *Pin) { p.Packs = []PackName{{Content: [12]byte{1}}, PackName(pack.ID{Nonce: [12]byte{9}})} }),
		pin(Fork, func(p *Pin) { p.Commit = commitKey }),
		pin(Children, func(p *Pin) { p.Commits = []string{commitKey}; p.Roots = []blockmap.Root{someRoot(1), {}} }),
	}
}

// domainPins name packs of domains other than 0.
func domainPins(t testing.TB) []Pin {
	t.Helper()
	pins := samplePins(t)
	pins[1].Packs = append(pins[1].Packs, PackName{Domain: 0x2a, Content: [12]byte{1}})
	root := someRoot(1)
	root.Ref.Pack.Domain = 0x2a
	pins[3].Roots = append(pins[3].Roots, root)
	return []Pin{pins[1], pins[3]}
}

func TestPinGolden(t *testing.T) {
	golden := func(name, got string) {
		path := filepath.Join("testdata", name)
		if *update {
			check(t, os.WriteFile(path, []byte(got), 0o644))
		}
		want, err := os.ReadFile(path)
		check(t, err)
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	test := func(name string, p Pin) {
		raw, err := p.Encode()
		check(t, err)
		golden(name+".json", string(raw))
		back, err := Decode(raw)
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

// TestOlderPins: pins of versions 1 and 2 have no seal.
func TestOlderPins(t *testing.T) {
	for _, p := range append(samplePins(t), domainPins(t)...) {
		raw, err := p.Encode()
		check(t, err)
		body, _, err := sealed.Open(raw)
		check(t, err)
		for _, v := range []string{`"version":1`, `"version":2`} {
			old := bytes.Replace(body, []byte(`"version":3`), []byte(v), 1)
			back, err := Decode(old)
			check(t, err)
			if !reflect.DeepEqual(back, p) {
				t.Errorf("came back as %+v, was %+v", back, p)
			}
			_, err = Decode(change(t, raw, `"version":3`, v)) // they have none
			wantKind(t, err, errs.Corrupt)
		}
		_, err = Decode(body)
		wantKind(t, err, errs.Corrupt)
	}
}

// change replaces text in a pin, and seals it again.
func change(t *testing.T, raw []byte, from, to string) []byte {
	t.Helper()
	body, _, err := sealed.Open(raw)
	check(t, err)
	if body = bytes.Replace(body, []byte(from), []byte(to), 1); !json.Valid(body) {
		return body
	}
	raw, err = sealed.Marshal(json.RawMessage(body))
	check(t, err)
	return raw
}

func TestPinRefuses(t *testing.T) {
	for _, p := range []Pin{
		{},
		{Host: "a", ID: ID{1}, Kind: Session},
		{Host: "a", ID: ID{1}, Kind: Packs, Commit: commitKey},
		{Host: "a", ID: ID{1}, Kind: "other", Commit: commitKey},
		{Host: "a", ID: ID{1}, Kind: Fork, Commit: "x"},
		{Host: "a/b", ID: ID{1}, Kind: Fork, Commit: commitKey},
		{Host: "a", Kind: Fork, Commit: commitKey},
		{Host: "a", ID: ID{1}, Kind: Packs, Packs: make([]PackName, 30000)},
	} {
		_, err := p.Encode()
		wantKind(t, err, errs.Invalid)
	}
	fork := samplePins(t)[2]
	raw, err := fork.Encode()
	check(t, err)
	_, err = Decode(change(t, raw, `"version":3`, `"version":4`))
	wantKind(t, err, errs.Unsupported)
	for _, c := range [][2]string{
		{`"version":3`, `"version":0`}, {"glide-pin", "glide-pan"}, {"host-a", "host/a"}, {`"kind":"fork"`, `"kind":"knife"`}, {"{", "["},
		{`"id":"`, `"id":"0`},
	} {
		_, err := Decode(change(t, raw, c[0], c[1]))
		wantKind(t, err, errs.Corrupt)
	}
}

// TestPackNamesAreStrict: a pack has one name.
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
		_, err := Decode(change(t, raw, name, `"`+bad+`"`))
		wantKind(t, err, errs.Corrupt)
	}
	plain, err := samplePins(t)[1].Encode()
	check(t, err)
	_, err = Decode(change(t, plain, "-09", "-0A"))
	wantKind(t, err, errs.Corrupt)
}

func TestPins(t *testing.T) {
	store := objstore.NewFaults(objstore.NewMem(objstore.Clock{Now: func() time.Time { return someDay }}), 1)
	pins := samplePins(t)
	pins[3].Host = "host-b"
	store.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.FailAfter})
	wantKind(t, Create(ctx, store, pins[0]), errs.Unavailable)
	for _, p := range pins {
		check(t, Create(ctx, store, p))
	}
	list := func(host string) (kinds string) {
		check(t, List(ctx, store, host, func(p Pin) error { kinds += string(p.Kind) + " "; return nil }))
		return kinds
	}
	if got := list(""); len(strings.Fields(got)) != 4 {
		t.Errorf("the pins are %q", got)
	}
	if got := list("host-b"); got != "local-children " {
		t.Errorf("the pins of host-b are %q", got)
	}
	check(t, Drop(ctx, store, pins[3]))
	check(t, Drop(ctx, store, pins[3]))
	if got := list("host-b"); got != "" {
		t.Errorf("the pins of host-b are %q", got)
	}
	check(t, store.Put(ctx, "pins/host-a/ffffffffffffffffffffffffffffffff", []byte("junk")))
	err := List(ctx, store, "", func(Pin) error { return nil })
	wantKind(t, err, errs.Corrupt)
	if !strings.Contains(err.Error(), "pins/host-a/ffff") {
		t.Errorf("%q does not name the pin", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, p := range append(samplePins(f), domainPins(f)...) {
		raw, err := p.Encode()
		check(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Pin
		var err error
		fuzztest.Bound(t, len(raw), 0, 64, func() { p, err = Decode(raw) })
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			// Only an unreadable time, or escapes that make it longer, may be in the way.
			if _, err := json.Marshal(p); err == nil && len(raw) < maxSize/6 {
				t.Errorf("it can be read, not written")
			}
			return
		}
		if _, err := Decode(again); err != nil {
			t.Errorf("it can be read once only: %v", err)
		}
	})
}
