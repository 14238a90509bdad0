package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/seal"
)

var suites = []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305}

// TestFreshNonces (fresh-nonce): no two seals of the same thing have a nonce, a salt or
// ciphertext in common.
func TestFreshNonces(t *testing.T) {
	for _, suite := range suites {
		d := open(t, suite)
		for _, p := range places(suite) {
			rapid.Check(t, func(t *rapid.T) {
				plain := rapid.SliceOfN(rapid.Byte(), 16, 64).Draw(t, "plain")
				seen := map[string]bool{}
				for range 20 {
					sealed := p.seal(d, plain)
					nonce, text := sealed[p.head:p.head+12], sealed[p.head+suite.Overhead()-16:]
					parts := [][]byte{nonce, text[:16], text[len(text)-16:]}
					if p.head != 0 {
						parts = append(parts, sealed[8:p.head]) // the salt
					}
					for _, part := range parts {
						if seen[string(part)] {
							t.Fatalf("%s, %v: two seals have %x in common", p.name, suite, part)
						}
						seen[string(part)] = true
					}
					if got, err := p.open(d, sealed); err != nil || !bytes.Equal(got, plain) {
						t.Fatalf("%s, %v: %x, %v", p.name, suite, got, err)
					}
				}
			})
		}
	}
	seen := map[seal.IV]bool{}
	for range 1000 {
		seen[seal.NewIV()] = true
	}
	if len(seen) != 1000 {
		t.Errorf("of 1000 IVs %d differ", len(seen))
	}
}

// TestEveryBit: sealed bytes of which a bit changed, or of which some are missing, give
// an error and no bytes.
func TestEveryBit(t *testing.T) {
	for _, suite := range suites {
		d := open(t, suite)
		for _, p := range places(suite) {
			sealed := p.seal(d, plaintext)
			for bit := range len(sealed) * 8 {
				sealed[bit/8] ^= 1 << (bit % 8)
				if got, err := p.open(d, sealed); err == nil || got != nil {
					t.Errorf("%s, %v, bit %d: %q, %v", p.name, suite, bit, got, err)
				} else if bit/8 >= p.head && !(errors.Is(err, seal.ErrTag) && errors.Is(err, errs.Corrupt)) {
					t.Errorf("%s, %v, bit %d: %v", p.name, suite, bit, err)
				}
				sealed[bit/8] ^= 1 << (bit % 8)
			}
			for n := range sealed {
				if got, err := p.open(d, sealed[:n]); !errors.Is(err, errs.Corrupt) || got != nil {
					t.Errorf("%s, %v, %d bytes: %q, %v", p.name, suite, n, got, err)
				}
			}
		}
	}
}

// TestEachForItsPlace: what was sealed for one place opens nowhere else, and not with
// another domain, host or suite.
func TestEachForItsPlace(t *testing.T) {
	for _, suite := range suites {
		d := open(t, suite)
		all := places(suite)
		for i, from := range all {
			sealed := from.seal(d, plaintext)
			for j, to := range all {
				if got, err := to.open(d, sealed); i != j && (err == nil || got != nil) {
					t.Errorf("%v: what was sealed for %s opens for %s: %q", suite, from.name, to.name, got)
				}
			}
			other := open(t, suite)
			if other, err := seal.New(seal.Secrets{Domain: domain + 1, Suite: suite, Current: number,
				Roots: map[uint32]seal.Key{number: keyOf(t, fill(0))}, Conv: keyOf(t, fill(0))}); err != nil {
				t.Fatal(err)
			} else if _, err := from.open(other, sealed); !errors.Is(err, seal.ErrTag) {
				t.Errorf("%v, %s: in another domain: %v", suite, from.name, err)
			}
			if got, err := from.open(other, sealed); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%v, %s: in the same domain, opened again: %v", suite, from.name, err)
			}
		}
		id := fill(9)
		changed := bytes.Clone(header)
		changed[19] ^= 1
		if _, err := d.OpenSlot(nil, seal.Block, number, suite, id, changed, d.SealSlot(nil, seal.Block, id, header, plaintext)); !errors.Is(err, seal.ErrTag) {
			t.Errorf("another header of a slot: %v", err)
		}
		changed = bytes.Clone(header)
		changed[51] ^= 1
		section := d.SealSection(nil, seal.State, commitKey, header, plaintext)
		if _, err := d.OpenSection(nil, seal.State, commitKey, changed, section); !errors.Is(err, seal.ErrTag) {
			t.Errorf("another header of a commit: %v", err)
		}
		if _, err := d.OpenSection(nil, seal.State, commitKey+"1", header, section); !errors.Is(err, seal.ErrTag) {
			t.Errorf("another object: %v", err)
		}
		page := sealPage(d.Local(host), &id, 3, plaintext)
		if _, err := openPage(d.Local("host-2"), number, suite, &id, 3, page); !errors.Is(err, seal.ErrTag) {
			t.Errorf("another host: %v", err)
		}
		if _, err := openPage(d.Local(host), number, suite, &id, 4, page); !errors.Is(err, seal.ErrTag) {
			t.Errorf("another page of the block: %v", err)
		}
	}
}

// TestRoots: seals are under the root in use; a root that is missing says which.
func TestRoots(t *testing.T) {
	d, id := open(t, seal.AES256GCM), fill(9)
	if d.Current() != number || d.Suite() != seal.AES256GCM || d.ID() != domain {
		t.Errorf("%d, %v, %08x", d.Current(), d.Suite(), d.ID())
	}
	sealed := d.SealSlot(nil, seal.Block, id, header, plaintext)
	if _, err := d.OpenSlot(nil, seal.Block, number-1, d.Suite(), id, header, sealed); !errors.Is(err, seal.ErrTag) {
		t.Errorf("with the root before: %v", err)
	}
	for root, want := range map[uint32]string{
		9: "sealed with root 9 of domain 0a0b0c0d, which this keyring does not have", 1: "sealed with root 1 of domain 0a0b0c0d, which was retired", 0: "root 0",
	} {
		_, err1 := d.OpenSlot(nil, seal.Block, root, d.Suite(), id, header, sealed)
		_, err2 := d.OpenIndex(nil, root, d.Suite(), content12, nonce12, trailer, sealed)
		_, err3 := d.OpenSection(nil, seal.Data, commitKey, header, append(le.AppendUint32(nil, root), make([]byte, 99)...))
		_, err4 := openPage(d.Local(host), root, d.Suite(), &id, 0, sealed)
		_, err5 := d.Local(host).Segment(root, 1, 1, [16]byte{})
		_, err6 := d.PackContent(root, nonce12, nil)
		for i, err := range []error{err1, err2, err3, err4, err5, err6} {
			if !errors.Is(err, seal.ErrNoRoot) || errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), want) {
				t.Errorf("root %d, %d: %v", root, i, err)
			}
		}
	}
	if _, err := d.OpenSlot(nil, seal.Block, number, 3, id, header, sealed); !errors.Is(err, errs.Unsupported) {
		t.Errorf("suite 3: %v", err)
	}
}

// TestGranted (sealed-home): another's domain opens, keeps blocks on the host's SSD, and seals nothing else.
func TestGranted(t *testing.T) {
	own := open(t, seal.AES256GCM)
	d, err := seal.New(seal.Secrets{Domain: domain, Suite: seal.AES256GCM, Granted: true, Current: number,
		Roots: map[uint32]seal.Key{number: keyOf(t, fill(0))}, Conv: keyOf(t, fill(0x40))})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places(seal.AES256GCM) {
		if got, err := p.open(d, p.seal(own, plaintext)); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%s: %v", p.name, err)
		}
		sealed := func() (sealed bool) {
			defer func() { _ = recover() }()
			p.seal(d, plaintext)
			return true
		}()
		if local := p.name == "slab" || p.name == "meta"; sealed != local {
			t.Errorf("%s: sealed is %v", p.name, sealed)
		}
	}
}

func TestBadSecrets(t *testing.T) {
	key := seal.NewKey()
	good := seal.Secrets{Domain: 1, Suite: 1, Current: 1, Roots: map[uint32]seal.Key{1: key}, Conv: key}
	for name, change := range map[string]func(*seal.Secrets){
		"domain 0": func(s *seal.Secrets) { s.Domain = 0 }, "no conv": func(s *seal.Secrets) { s.Conv = seal.Key{} },
		"no current": func(s *seal.Secrets) { s.Current = 0 }, "empty root": func(s *seal.Secrets) { s.Roots = map[uint32]seal.Key{1: {}} },
		"root 0": func(s *seal.Secrets) { s.Roots = map[uint32]seal.Key{0: key, 1: key} }, "suite 0": func(s *seal.Secrets) { s.Suite = 0 },
	} {
		s := good
		change(&s)
		if _, err := seal.New(s); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := seal.KeyOf(make([]byte, seal.KeySize-1)); !errors.Is(err, errs.Invalid) {
		t.Errorf("a short key: %v", err)
	}
}

// TestSecretsAreNotPrinted prints everything that holds a secret in every way.
func TestSecretsAreNotPrinted(t *testing.T) {
	mark := []byte("0123456789abcdef0123456789ABCDEF")
	key := keyOf(t, [32]byte(mark))
	secrets := seal.Secrets{Domain: domain, Suite: 1, Current: 1, Roots: map[uint32]seal.Key{1: key}, Conv: key, Name: key}
	d, err := seal.New(secrets)
	if err != nil {
		t.Fatal(err)
	}
	seg, err := d.Local(host).Segment(1, 1, 1, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	type outer struct {
		Exported any
		key      seal.Key
		secrets  seal.Secrets
		domain   *seal.Domain
	}
	derived := d.DedupSecret().Append(nil)
	for _, v := range []any{key, &key, secrets, &secrets, d, d.Local(host), seg, d.DedupSecret(), []seal.Key{key}, map[string]seal.Key{"a": key},
		outer{key, key, secrets, d}, &outer{secrets, key, secrets, d}, struct{ b outer }{outer{nil, key, secrets, d}}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		j, err := json.Marshal(v)
		fmt.Fprintf(&out, "%s %v %v", j, err, fmt.Errorf("e: %v", v))
		for name, secret := range map[string][]byte{"a key": mark, "a derived key": derived} {
			for _, form := range []string{string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint(secret)[1:60], fmt.Sprintf("%#v", secret)[8:60]} {
				if strings.Contains(out.String(), form) {
					t.Errorf("%T: %s is printed as %.200s", v, name, form)
				}
			}
		}
	}
	if got := fmt.Sprint(key, secrets, seg); got != "[secret] [secret] [secret]" {
		t.Errorf("%s", got)
	}
}

// TestAllocations: sealing and opening allocate what the standard library's AES-GCM does, a
// key schedule and a cipher of 1,280 bytes in two pieces, and no buffers. The bounds are wider
// because pools forget under the race detector.
func TestAllocations(t *testing.T) {
	d, id, plain := open(t, seal.AES256GCM), fill(9), make([]byte, 128<<10)
	dst := make([]byte, 0, len(plain)+d.SectionOverhead())
	local := d.Local(host)
	slabbed := sealPage(local, &id, 0, plain)
	slab, err := local.Slab(local.Mark(), slabSalt)
	if err != nil {
		t.Fatal(err)
	}
	for name, fn := range map[string]func(){
		"slot":    func() { d.SealSlot(dst, seal.Block, id, header, plain) },
		"index":   func() { d.SealIndex(dst, content12, nonce12, trailer, plain) },
		"section": func() { d.SealSection(dst, seal.Data, commitKey, header, plain) },
		"slab":    func() { _, _ = slab.Open(dst, &id, 0, slabbed) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n := testing.AllocsPerRun(100, fn)
		runtime.ReadMemStats(&after)
		if bytes := (after.TotalAlloc - before.TotalAlloc) / 100; n > 6 || bytes > 4<<10 {
			t.Errorf("%s: %v allocations, %d bytes", name, n, bytes)
		}
	}
}

// TestMark: a mark is stored as it is, and tells which keys are missing.
func TestMark(t *testing.T) {
	l := open(t, seal.AES256GCM).Local(host)
	m := l.Mark()
	b := m.Append(nil)
	if want := "0d0c0b0a"; len(b) != seal.MarkSize || hex.EncodeToString(b[:4]) != want {
		t.Errorf("stored as %x", b)
	}
	if got, ok := seal.ReadMark(b); !ok || got != m || l.Check(got) != nil {
		t.Errorf("read as %v: %v, %v", got, ok, l.Check(got))
	}
	if _, ok := seal.ReadMark(make([]byte, seal.MarkSize)); ok {
		t.Error("zeros are a mark")
	}
	other, unknown, newer := m, m, m
	other.Domain, newer.Root, unknown.Suite = 1, 9, 9
	for _, x := range []struct {
		l    *seal.Local
		m    seal.Mark
		want error
	}{{nil, m, seal.ErrLocked}, {l, other, seal.ErrLocked}, {l, newer, seal.ErrNoRoot}, {l, unknown, errs.Unsupported}} {
		if err := x.l.Check(x.m); !errors.Is(err, x.want) {
			t.Errorf("%v: %v", x.m, err)
		}
	}
	if (*seal.Local)(nil).Mark() != (seal.Mark{}) {
		t.Error("no keys have a mark")
	}
}

// FuzzOpen: bytes that nobody vouches for open nowhere and cost what their number may.
func FuzzOpen(f *testing.F) {
	for i, suite := range suites {
		for j, p := range places(suite) {
			sealed := p.seal(open(f, suite), plaintext)
			f.Add(byte(i), byte(j), sealed)
			sealed[len(sealed)/2] ^= 4
			f.Add(byte(i), byte(j), sealed)
		}
	}
	domains := []*seal.Domain{open(f, suites[0]), open(f, suites[1])}
	f.Fuzz(func(t *testing.T, s, p byte, sealed []byte) {
		i := int(s) % len(suites)
		all := places(suites[i])
		place := all[int(p)%len(all)]
		// The plaintext; HMAC states and key schedules take less than the fixed part.
		fuzztest.Bound(t, len(sealed), 16<<10, 2, func() {
			got, err := place.open(domains[i], sealed)
			if err == nil && !bytes.Equal(got, plaintext) {
				t.Errorf("%s: %x opens as %q", place.name, sealed, got)
			}
			if err != nil && got != nil {
				t.Errorf("%s: an error, and %q", place.name, got)
			}
		})
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, suite := range suites {
		for _, n := range []int{128 << 10, 4 << 10} {
			d, id, plain := open(b, suite), fill(9), make([]byte, n)
			sealed := d.SealSlot(nil, seal.Block, id, header, plain)
			dst := make([]byte, 0, len(sealed))
			local := d.Local(host)
			slab := sealPage(local, &id, 0, plain)
			keys, err := local.Slab(local.Mark(), slabSalt)
			if err != nil {
				b.Fatal(err)
			}
			run := func(name string, fn func()) {
				b.Run(fmt.Sprintf("%s/%v/%dKiB", name, suite, n>>10), func(b *testing.B) {
					b.ReportAllocs()
					b.SetBytes(int64(n))
					for b.Loop() {
						fn()
					}
				})
			}
			run("seal", func() { d.SealSlot(dst, seal.Block, id, header, plain) })
			run("open", func() {
				if _, err := d.OpenSlot(dst, seal.Block, number, suite, id, header, sealed); err != nil {
					b.Fatal(err)
				}
			})
			run("open-local", func() {
				if _, err := keys.Open(dst, &id, 0, slab); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
	seg, err := open(b, 1).Local(host).Segment(number, 1, 1, [16]byte{})
	if err != nil {
		b.Fatal(err)
	}
	buf, iv := make([]byte, 128<<10), seal.NewIV()
	for _, n := range []int{128 << 10, 4 << 10} {
		b.Run(fmt.Sprintf("log/AES-256-CTR/%dKiB", n>>10), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				seg.XOR(buf[:n], buf[:n], iv, 4096)
			}
		})
	}
}
