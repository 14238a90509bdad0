package commitlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

const home = 0x0a0b0c0d

// domainWith is a domain with the roots 1 to n, and seals with the last.
func domainWith(t tb, id uint32, suite seal.Suite, n int) *seal.Domain {
	t.Helper()
	key := func(b byte) seal.Key {
		k, err := seal.KeyOf(bytes.Repeat([]byte{b}, seal.KeySize))
		check(t, err)
		return k
	}
	s := seal.Secrets{Domain: id, Suite: suite, Roots: map[uint32]seal.Key{}, Current: uint32(n), Conv: key(0xcc)}
	for i := 1; i <= n; i++ {
		s.Roots[uint32(i)] = key(byte(i))
	}
	d, err := seal.New(s)
	check(t, err)
	return d
}

// keyed is a store for sealed logs.
func keyed(store objstore.Store, d *seal.Domain) objstore.Store {
	return WithKeys(store, always(func() (Keys, error) { return Keys{Domain: d, Keyring: 3}, nil }))
}

// sealable are the sample objects with what a sealed object has.
func sealable(t tb) map[string]*Object {
	all := sampleObjects(t)
	for _, o := range all {
		o.Domain, o.State.Prev, o.State.Keyring = home, ObjectHash{9, 8, 7}, 3
		if !o.Bare() {
			check(t, o.State.name(o.Data, home))
		}
	}
	for _, name := range []string{"commit", "stub"} { // in a domain of their own
		o := *all[name]
		o.State = o.State.Clone()
		o.State.Isolated = home
		all["isolated-"+name] = &o
	}
	return all
}

func keyOf(o *Object) string { return o.State.Volume().Key(o.Generation) }

func mustSeal(t tb, o *Object, d *seal.Domain) []byte {
	t.Helper()
	raw, err := o.EncodeFor(d)
	check(t, err)
	return raw
}

func TestSealedRoundTrip(t *testing.T) {
	for _, suite := range []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305} {
		d := domainWith(t, home, suite, 2)
		for name, o := range sealable(t) {
			raw := mustSeal(t, o, d)
			if want := byte(5 + min(o.State.Isolated, 1)); raw[4] != want {
				t.Errorf("%s: version %d, want %d", name, raw[4], want)
			}
			back, err := DecodeFor(raw, keyOf(o), d)
			check(t, err)
			if back.Hash != ObjectHash(blake3.Sum256(raw)) || back.Size != len(raw) {
				t.Errorf("%s: hash and size are not of its bytes", name)
			}
			head, err := DecodeHeader(raw)
			check(t, err)
			if head.Generation != o.Generation || head.Kind != o.Kind || head.Mark != o.Mark || head.Ahead != o.Ahead || head.Released != o.Released ||
				head.Tombstone != o.Tombstone || head.Hash != back.Hash || !head.State.ID.IsZero() || head.Data != nil || head.Closes() != o.Closes() || head.State.Isolated != o.State.Isolated {
				t.Errorf("%s: in clear it says %+v", name, head)
			}
			back.Hash, back.Size = ObjectHash{}, 0
			if len(back.Data) == 0 {
				back.Data = nil
			}
			if !reflect.DeepEqual(o, back) {
				t.Errorf("%s: came back as\n%+v, was\n%+v", name, back, o)
			}
		}
	}
}

// TestGoldenSealed reads sealed objects that an earlier build wrote, and compares their
// bytes but for what is sealed, and the text with that of the dump.
func TestGoldenSealed(t *testing.T) {
	d := domainWith(t, home, seal.AES256GCM, 2)
	for name, o := range sealable(t) {
		path := filepath.Join("testdata", "sealed", name+".commit")
		if *update {
			check(t, os.WriteFile(path, mustSeal(t, o, d), 0o644))
		}
		raw, err := os.ReadFile(path)
		check(t, err)
		back, err := DecodeFor(raw, keyOf(o), d)
		check(t, err)
		var dump bytes.Buffer
		check(t, back.Dump(&dump))
		golden(t, filepath.Join("sealed", name+".txt"), dump.String())
		back.Hash, back.Size = ObjectHash{}, 0
		if len(back.Data) == 0 {
			back.Data = nil
		}
		if !reflect.DeepEqual(o, back) {
			t.Errorf("%s: came back as\n%+v, was\n%+v", name, back, o)
		}
		clear := func(raw []byte) []byte {
			raw = bytes.Clone(raw)
			f, err := frame.Decode(raw)
			check(t, err)
			copy(raw[frame.CRCAt:frame.HeaderSize], "....")
			for _, section := range [][]byte{f.State, f.Data} {
				for i := range section {
					if i >= 8 {
						section[i] = '.'
					}
				}
			}
			return raw
		}
		if got, want := clear(mustSeal(t, o, d)), clear(raw); !bytes.Equal(got, want) {
			t.Errorf("%s: in clear it is\n%x\nwas\n%x", name, got, want)
		}
	}
}

// TestOpensBySpecification opens a golden object with nothing but the secrets and what
// docs/formats/commit.md says.
func TestOpensBySpecification(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "sealed", "commit.commit"))
	check(t, err)
	o := sealable(t)["commit"]
	le := binary.LittleEndian
	stateLen := le.Uint32(raw[44:])
	root, err := seal.KeyOf(bytes.Repeat([]byte{2}, seal.KeySize))
	check(t, err)
	for label, section := range map[string][]byte{"state": raw[56 : 56+stateLen], "data": raw[56+stateLen:]} {
		if !bytes.Equal(section[:8], []byte{2, 0, 0, 0, 1, 0, 0, 0}) {
			t.Errorf("%s begins with %x", label, section[:8])
		}
		mac := root.Derive(label, home).MAC(section[8:24])
		key, err := seal.KeyOf(mac[:])
		check(t, err)
		aad := append([]byte(label+"t/acme/volumes/db/log/fffffffffffffffb/0000000003"), raw[:52]...)
		plain, err := key.Open(nil, seal.AES256GCM, aad, section[24:])
		check(t, err)
		if label == "data" && !bytes.Equal(plain, o.Data) || label == "state" && !bytes.Contains(plain, []byte(`"domains":[0,168496141],`)) && !bytes.HasSuffix(plain, []byte(`"domains":[0,168496141]}`)) {
			t.Errorf("%s is %q", label, plain)
		}
	}
}

// TestSealedDamage flips every bit of a sealed object. As it is, that is damage; with a
// checksum that is right, the tags find it, wherever it is.
func TestSealedDamage(t *testing.T) {
	for _, suite := range []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305} {
		d := domainWith(t, home, suite, 1)
		for _, name := range []string{"commit", "stub", "isolated-commit"} {
			o := sealable(t)[name]
			raw := mustSeal(t, o, d)
			stateAt, dataAt := frame.HeaderSize, len(raw)
			if o.State.Isolated != 0 {
				stateAt += 4
			}
			if len(o.Data) > 0 {
				dataAt -= len(o.Data) + d.SectionOverhead()
			}
			for i := range 8 * len(raw) {
				bad := bytes.Clone(raw)
				bad[i/8] ^= 1 << (i % 8)
				_, err := DecodeFor(bad, keyOf(o), d)
				if kind := errs.KindOf(err); kind != errs.Corrupt && kind != errs.Unsupported || errors.Is(err, seal.ErrTag) {
					t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
				}
				if _, err := DecodeHeader(bad); err == nil {
					t.Fatalf("bit %d of byte %d was not noticed without keys", i%8, i/8)
				}
				at := i / 8
				if at >= frame.CRCAt && at < frame.HeaderSize {
					continue
				}
				resign(bad)
				_, err = DecodeFor(bad, keyOf(o), d)
				inSection := func(from int) bool { return at >= from+8 } // behind root, suite and zeros
				switch {
				case err == nil:
					t.Fatalf("bit %d of byte %d was not noticed", i%8, at)
				case at < frame.HeaderSize && at >= 6 && at < 44 && !errors.Is(err, seal.ErrTag) && errs.KindOf(err) != errs.Corrupt:
					t.Fatalf("bit %d of byte %d of the header: %v", i%8, at, err)
				case at >= stateAt && at < dataAt && inSection(stateAt) && !errors.Is(err, seal.ErrTag),
					at >= dataAt && inSection(dataAt) && !errors.Is(err, seal.ErrTag):
					t.Fatalf("bit %d of byte %d of a section: %v", i%8, at, err)
				}
			}
		}
	}
}

func resign(raw []byte) {
	sum := frame.Checksum(raw)
	raw[frame.CRCAt], raw[frame.CRCAt+1], raw[frame.CRCAt+2], raw[frame.CRCAt+3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
}

// TestSealedElsewhere: an object opens at its key only, with its own sections, and in its
// own domain; and no plain object does.
func TestSealedElsewhere(t *testing.T) {
	d := domainWith(t, home, seal.AES256GCM, 2)
	o := sealable(t)["commit"]
	raw := mustSeal(t, o, d)
	tag := func(name string, raw []byte, key string, d *seal.Domain) {
		t.Helper()
		if _, err := DecodeFor(raw, key, d); !errors.Is(err, seal.ErrTag) || errs.KindOf(err) != errs.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, key := range map[string]string{
		"another number": o.State.Volume().Key(o.Generation.Next()), "another volume": Volume{"acme", "db2"}.Key(o.Generation), "no key": "",
	} {
		tag(name, raw, key, d)
	}
	tag("another domain", raw, keyOf(o), domainWith(t, home+1, seal.AES256GCM, 2))

	// Sections of another object at the same key, which has the same lengths.
	other := *o
	other.Mark[3]++
	theirs := mustSeal(t, &other, d)
	stateEnd := len(raw) - len(o.Data) - d.SectionOverhead()
	for name, edit := range map[string]func(b []byte){
		"another's state": func(b []byte) { copy(b[frame.HeaderSize:stateEnd], theirs[frame.HeaderSize:stateEnd]) },
		"another's data":  func(b []byte) { copy(b[stateEnd:], theirs[stateEnd:]) },
		"another's mark":  func(b []byte) { copy(b[24:40], theirs[24:40]) },
	} {
		mixed := bytes.Clone(raw)
		edit(mixed)
		resign(mixed)
		tag(name, mixed, keyOf(o), d)
	}
	// State and data in each other's place.
	swapped := slices.Concat(raw[:frame.HeaderSize], raw[stateEnd:], raw[frame.HeaderSize:stateEnd])
	copy(swapped[44:48], raw[48:52])
	copy(swapped[48:52], raw[44:48])
	resign(swapped)
	tag("swapped sections", swapped, keyOf(o), d)
	// Without its data.
	short := bytes.Clone(raw[:stateEnd])
	copy(short[48:52], make([]byte, 4))
	resign(short)
	tag("without its data", short, keyOf(o), d)

	// Rotation.
	newer := domainWith(t, home, seal.XChaCha20Poly1305, 3)
	_, err := DecodeFor(raw, keyOf(o), newer)
	check(t, err)
	if _, err := DecodeFor(mustSeal(t, o, newer), keyOf(o), d); !errors.Is(err, seal.ErrNoRoot) || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("of a newer root: %v", err)
	}
}

// TestLockedAndDowngraded: without keys, what is sealed is locked; with them, what is not
// sealed is refused; and what names keys is never written in clear.
func TestLockedAndDowngraded(t *testing.T) {
	d := domainWith(t, home, seal.AES256GCM, 1)
	o := sealable(t)["seal"]
	raw := mustSeal(t, o, d)
	if _, err := Decode(raw); !errors.Is(err, seal.ErrLocked) || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("without keys: %v", err)
	}
	var dump strings.Builder
	if err := Dump(&dump, raw); !errors.Is(err, seal.ErrLocked) || !strings.Contains(dump.String(), "version 5, seal\ngeneration 4.4") || strings.Contains(dump.String(), "state") {
		t.Errorf("%v\n%s", err, &dump)
	}
	for name, o := range sampleObjects(t) {
		plain, err := o.Encode()
		check(t, err)
		if _, err := DecodeFor(plain, keyOf(o), d); errs.KindOf(err) != errs.Corrupt || errors.Is(err, seal.ErrTag) {
			t.Errorf("%s, not sealed: %v", name, err)
		}
	}
	back, err := DecodeFor(raw, keyOf(o), d)
	check(t, err)
	for name, o := range map[string]*Object{
		"decoded": back, "its stub": back.Stub(),
		"its fork": {Generation: Generation{Epoch: 1, Number: 1}, Kind: First, State: func() State {
			s := back.State.Fork("x", volumeID(3), Generation{}, someDay)
			s.Owner.ID = "h"
			return s
		}()},
		"keyring": {Generation: Generation{Epoch: 1, Number: 1}, Kind: First, State: func() State { s := someState(1); s.Keyring = 1; return s }()},
	} {
		_, err := o.Encode()
		t.Run(name, func(t *testing.T) { wantKind(t, err, errs.Invalid) })
	}
	bare := &Object{Generation: Generation{Epoch: 1, Number: 1}, Kind: First, State: sampleObjects(t)["first"].State, Domain: home}
	_, err = bare.Stub().Encode()
	wantKind(t, err, errs.Invalid)
	_, err = back.EncodeFor(domainWith(t, home+1, seal.AES256GCM, 1))
	wantKind(t, err, errs.Invalid)
	// A sealed stub has its identity, for collectors with keys.
	stub := back.Stub()
	again, err := DecodeFor(mustSeal(t, stub, d), keyOf(o), d)
	check(t, err)
	if again.State.ID != o.State.ID || again.State.Prev != o.State.Prev || again.Kind != Stub {
		t.Errorf("the stub is %+v", again)
	}
	// Roots in domains that the object does not name.
	bad := sealable(t)["commit"]
	bad.State.Root.Ref.Pack.Domain = 99
	_, err = bad.EncodeFor(d)
	wantKind(t, err, errs.Invalid)
	bad = sealable(t)["commit"]
	slices.Reverse(bad.State.Domains)
	bad.State.Domains = append(bad.State.Domains, bad.State.Domains[0])
	_, err = bad.EncodeFor(d)
	wantKind(t, err, errs.Invalid)
}

// TestSealedCanary: names, addresses and data of a volume are not in its sealed commits.
func TestSealedCanary(t *testing.T) {
	const mark = "CANARY-0123456789-abcdefghijklmnopqrstuvwxyz"
	store := newStore()
	d := domainWith(t, home, seal.AES256GCM, 1)
	o := newOwner(t, keyed(store, d), "host-CANARY", 1)
	s := someState(1)
	s.Labels = map[string]string{"CANARY": mark}
	_, err := o.OpenFirst(ctx, s)
	check(t, err)
	data, err := EncodeData([]Range{{Off: 0, Len: uint64(len(mark)), Data: []byte(mark)}})
	check(t, err)
	sh, err := o.Ship(ctx, 2, data, func(*State) {})
	check(t, err)
	_, err = sh.Wait(ctx)
	check(t, err)
	check(t, o.Tombstone(ctx, CauseRename, "CANARY"))
	n := 0
	check(t, objstore.ListAll(ctx, store, "", "", func(in objstore.Info) bool {
		raw, err := store.Get(ctx, in.Key)
		check(t, err)
		n++
		for _, word := range []string{"CANARY", "host-", s.ID.String(), "{"} {
			if len(word) > 1 && bytes.Contains(raw, []byte(word)) {
				t.Errorf("%s shows %q", in.Key, word)
			}
		}
		return true
	}))
	if n < 4 {
		t.Errorf("%d objects", n)
	}
}

// TestSealedCost: a sealed commit without data is fewer than 300 bytes longer.
func TestSealedCost(t *testing.T) {
	for name, o := range sampleObjects(t) {
		plain, err := o.Encode()
		check(t, err)
		raw := mustSeal(t, sealable(t)[name], domainWith(t, home, seal.AES256GCM, 1))
		if more := len(raw) - len(plain); more >= 300 {
			t.Errorf("%s is %d bytes longer", name, more)
		}
	}
}

// TestLargestSealedState: what can be written in clear can be written sealed.
func TestLargestSealedState(t *testing.T) {
	s := someState(1)
	s.Tenant, s.Name, s.Owner.ID = "t", "n", "h"
	s.Domains = slices.Repeat([]uint32{0}, maxDomains)
	for i := range s.Domains {
		s.Domains[i] = 1<<31 + uint32(i)
	}
	s.Domains[0] = 0 // of the root
	d := domainWith(t, home, seal.XChaCha20Poly1305, 1)
	o := &Object{Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, State: s}
	check(t, errOf(DecodeFor(mustSeal(t, o, d), keyOf(o), d)))
	o.State.Domains = append(o.State.Domains, 1<<32-1)
	wantKind(t, errOf(o.EncodeFor(d)), errs.Invalid)
	// The largest sections, as frames have them.
	h := o.header()
	h.Version = frame.Sealed
	raw := h.EncodeSealed(d, "k", make([]byte, frame.MaxState), make([]byte, frame.MaxData))
	f, err := frame.Decode(raw)
	check(t, err)
	check(t, f.Open(d, "k"))
	raw = h.EncodeSealed(d, "k", make([]byte, frame.MaxState+1), nil)
	f, err = frame.Decode(raw)
	if err == nil {
		err = f.Open(d, "k")
	}
	wantKind(t, err, errs.Corrupt)
}

// FuzzDecodeSealed opens objects with arbitrary bytes and a valid checksum.
func FuzzDecodeSealed(f *testing.F) {
	d := domainWith(f, home, seal.AES256GCM, 1)
	all := sealable(f)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f.Add(mustSeal(f, all[name], d))
	}
	key := keyOf(all["commit"])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if raw = bytes.Clone(raw); len(raw) >= frame.HeaderSize {
			resign(raw)
		}
		var err error
		// What opens is as long as what is sealed; JSON into maps and strings as in FuzzDecode.
		fuzztest.Bound(t, len(raw), 0, 66, func() { _, err = DecodeFor(raw, key, d) })
		if err != nil && !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Unsupported) && !errors.Is(err, seal.ErrNoRoot) {
			t.Fatal(err)
		}
		fuzztest.Bound(t, len(raw), 0, 1, func() { _, err = DecodeHeader(raw) })
		if err != nil && !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Unsupported) {
			t.Fatal(err)
		}
		_ = Dump(&bytes.Buffer{}, raw)
	})
}

// BenchmarkSealedCommit compares a sealed data commit with a plain one, in turns.
func BenchmarkSealedCommit(b *testing.B) {
	body := make([]byte, 256<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(body)
	data, err := EncodeData([]Range{{Off: 0, Len: uint64(len(body)), Data: body}})
	check(b, err)
	s := fullState()
	s.Snapshots, s.Root = nil, blockmap.Root{}
	o := &Object{Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, State: s, Data: data}
	for _, d := range []*seal.Domain{nil, domainWith(b, home, seal.AES256GCM, 1)} {
		raw, err := o.EncodeFor(d)
		check(b, err)
		b.Run(fmt.Sprintf("encode/sealed=%v", d != nil), func(b *testing.B) {
			for b.Loop() {
				_, _ = o.EncodeFor(d)
			}
		})
		b.Run(fmt.Sprintf("decode/sealed=%v", d != nil), func(b *testing.B) {
			for b.Loop() {
				_, _ = DecodeFor(raw, keyOf(o), d)
			}
		})
	}
}

// always is a KeyRing of sealed tenants.
type always func() (Keys, error)

func (a always) Keys(context.Context, string) (Keys, error)   { return a() }
func (always) ForNames(context.Context, string) (Keys, error) { return Keys{}, nil }
func (always) Plain(string) bool                              { return false }
func (always) Renew(context.Context, string) error            { return nil }
