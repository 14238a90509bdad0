package keys

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	goldenFile   = "testdata/v1.keyring"
	goldenDomain = 0x0a0b0c0d
	goldenNumber = 3
)

func count(from byte) []byte {
	b := make([]byte, seal.KeySize)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func keyOf(tb testing.TB, b []byte) seal.Key {
	tb.Helper()
	k, err := seal.KeyOf(b)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

var (
	goldenPrev = [32]byte{0xaa, 0xbb}
	goldenKEK  = count(0xc0)
)

func goldenContents() *contents {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	return &contents{
		Tenant: "acme", Conv: count(0x40), Name: count(0x60),
		Roots: []storedRoot{{1, nil, at, Retired}, {2, count(0x20), at.AddDate(0, 1, 0), Old}, {3, count(0), at.AddDate(0, 2, 0), Current}},
		Grants: []grant{{Domain: 0x99, Conv: count(0x80), Roots: []storedRoot{
			{4, count(0xa0), at, Current},
		}}},
	}
}

// goldenKey is a file with the key that opens the golden keyring.
func goldenKey(tb testing.TB) *rawKey {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "key")
	if err := os.WriteFile(path, []byte(hex.EncodeToString(count(1))+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return &rawKey{source{"file", path}}
}

func writeGolden(t *testing.T) {
	t.Helper()
	w, err := goldenKey(t).Wrap(t.Context(), goldenDomain, keyOf(t, goldenKEK))
	if err != nil {
		t.Fatal(err)
	}
	other := Wrap{Kind: kindPassphrase, Params: &Argon2{Salt: count(0)[:16], MemoryKiB: 64 << 10, Passes: 3, Threads: 4}, Blob: []byte("not tried")}
	raw, err := encode(goldenDomain, goldenNumber, goldenPrev, header{seal.AES256GCM, []Wrap{w, other}}, keyOf(t, goldenKEK), goldenContents())
	if err == nil {
		err = os.WriteFile(goldenFile, raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func golden(tb testing.TB) []byte {
	tb.Helper()
	raw, err := os.ReadFile(goldenFile)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// openRaw does what Open does with an object that it got, without a store.
func openRaw(ctx context.Context, raw []byte, providers ...Provider) (*Ring, error) {
	k := &Keyrings{Providers: providers}
	return k.open(ctx, raw, objectKey(goldenDomain, goldenNumber), "acme", Seen{})
}

// TestGolden opens a keyring that an earlier build wrote, and writes it again: all but
// nonce, ciphertext and tag of the body is the same.
func TestGolden(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	raw := golden(t)
	r, err := openRaw(t.Context(), raw, goldenKey(t))
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(goldenContents())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(r.c()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("its contents are\n%s, want\n%s (%v)", got, want, err)
	}
	o, err := decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if o.domain != goldenDomain || o.number != goldenNumber || o.prev != goldenPrev {
		t.Errorf("domain %08x, number %d, predecessor %x", o.domain, o.number, o.prev)
	}
	again, err := encode(o.domain, o.number, o.prev, o.header, keyOf(t, goldenKEK), r.c())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(o.before) + macSize; len(again) != len(raw) || !bytes.Equal(again[:n], raw[:n]) {
		t.Errorf("written again it begins\n%x, want\n%x", again[:n], raw[:n])
	}
	if body := len(o.before) + macSize; bytes.Contains(again[body:], raw[body:body+12]) {
		t.Error("written again it has the same nonce")
	}
}

// TestGoldenKeys: what the golden keyring's domain derives does not change.
func TestGoldenKeys(t *testing.T) {
	r, err := openRaw(t.Context(), golden(t), goldenKey(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Keys()
	if err != nil {
		t.Fatal(err)
	}
	if d.Current() != 3 || d.Suite() != seal.AES256GCM || d.ID() != goldenDomain {
		t.Errorf("%d, %v, %08x", d.Current(), d.Suite(), d.ID())
	}
	// As package seal's frozen values, which are of the same secrets.
	if want := keyOf(t, count(0x40)).Derive("hash", goldenDomain); !d.DedupSecret().Equal(want) {
		t.Errorf("ids come from another key")
	}
	foreign, err := r.Granted(0x99)
	if err != nil || foreign.Current() != 4 {
		t.Fatalf("%v, %v", foreign, err)
	}
	if _, err := r.Granted(0x98); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a domain that was not granted: %v", err)
	}
	id := [32]byte{1}
	if _, err := d.OpenSlot(nil, seal.Block, 1, 1, id, make([]byte, 20), nil); !errors.Is(err, seal.ErrNoRoot) || !strings.Contains(err.Error(), "retired") {
		t.Errorf("a retired root: %v", err)
	}
}

// TestEveryBit: a keyring of which a bit changed, or of which bytes are missing, is refused.
func TestEveryBit(t *testing.T) {
	raw, key := golden(t), goldenKey(t)
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if _, err := openRaw(t.Context(), raw, key); err == nil {
			t.Errorf("bit %d of byte %d is not noticed", bit%8, bit/8)
		} else if errors.Is(err, errs.NotFound) || errors.Is(err, ErrErased) || errors.Is(err, ErrAway) || errors.Is(err, ErrDenied) {
			t.Errorf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	for n := range raw {
		if _, err := openRaw(t.Context(), raw[:n], key); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%d bytes of it: %v", n, err)
		}
	}
	if _, err := openRaw(t.Context(), append(slices.Clone(raw), 0), key); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a byte too many: %v", err)
	}
}

// TestMACBeforeBody: somebody who can wrap a KEK of his own still cannot change a
// header, and the body is not touched before the header is confirmed.
func TestMACBeforeBody(t *testing.T) {
	raw := golden(t)
	o, err := decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	kek := keyOf(t, goldenKEK)
	if _, err := o.open(kek); err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(*object){
		func(o *object) { o.mac = bytes.Repeat([]byte{1}, macSize) },
		func(o *object) { o.before = append(slices.Clone(o.before[:len(o.before)-1]), ' ') },
		func(o *object) { o.mac, o.body = nil, []byte("what would be parsed") },
	} {
		changed := *o
		change(&changed)
		if _, err := changed.open(kek); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "changed by somebody") {
			t.Errorf("%d: %v", i, err)
		}
	}
	// With the right MAC for it, a header still does not fit another's body.
	changed := *o
	changed.before = slices.Clone(o.before)
	changed.before[20] ^= 1
	mac := kek.Derive("header", goldenDomain).MAC(changed.before)
	changed.mac = mac[:]
	if _, err := changed.open(kek); !errors.Is(err, errs.Corrupt) || !errors.Is(err, seal.ErrTag) {
		t.Errorf("a body under another header: %v", err)
	}
}

// frame puts a header of any kind into a keyring, with the right MAC.
func frame(t *testing.T, head string, plain []byte) []byte {
	t.Helper()
	kek := keyOf(t, goldenKEK)
	raw := le.AppendUint32(append(le.AppendUint16([]byte(magic), version), 0, 0), goldenDomain)
	raw = append(le.AppendUint64(raw, goldenNumber), make([]byte, 32)...)
	raw = le.AppendUint32(le.AppendUint32(raw, uint32(len(head))), uint32(len(plain)+28))
	raw = append(raw, head...)
	mac := kek.Derive("header", goldenDomain).MAC(raw)
	raw = append(raw, mac[:]...)
	return kek.Derive("body", goldenDomain).Seal(raw, 1, bytes.Clone(raw), plain)
}

// TestBounds: what a keyring asks for is bounded before anything of it is confirmed.
func TestBounds(t *testing.T) {
	argon := `{"suite":1,"wraps":[{"kind":"passphrase","id":"","params":{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","memory_kib":%d,"passes":%d,"threads":%d},"blob":"AAAA"}]}`
	wraps := func(n int, form string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(form, i))
		}
		return `{"suite":1,"wraps":[` + strings.Join(all, ",") + `]}`
	}
	const key = `{"kind":"key","id":"%d","blob":"AAAA"}`
	for name, c := range map[string]struct {
		head string
		want error // nil: it is decoded
	}{
		"one wrap": {wraps(1, key), nil}, "32 wraps": {wraps(32, key), nil}, "33 wraps": {wraps(33, key), errs.Corrupt}, "no wrap": {wraps(0, key), errs.Corrupt},
		"the most of Argon2": {fmt.Sprintf(argon, 1<<20, 16, 16), nil}, "more than 1 GiB": {fmt.Sprintf(argon, 1<<20+1, 3, 4), errs.Corrupt},
		"17 passes": {fmt.Sprintf(argon, 1<<16, 17, 4), errs.Corrupt}, "no pass": {fmt.Sprintf(argon, 1<<16, 0, 4), errs.Corrupt},
		"no thread": {fmt.Sprintf(argon, 1<<16, 3, 0), errs.Corrupt}, "17 threads": {fmt.Sprintf(argon, 1<<16, 3, 17), errs.Corrupt},
		"no memory": {fmt.Sprintf(argon, 0, 3, 4), errs.Corrupt}, "memory that is no u32": {strings.Replace(fmt.Sprintf(argon, 7, 3, 4), ":7,", ":99999999999,", 1), errs.Corrupt},
		"no parameters": {`{"suite":1,"wraps":[{"kind":"passphrase","id":"","blob":"AAAA"}]}`, errs.Corrupt},
		"two of one":    {`{"suite":1,"wraps":[{"kind":"key","id":"a","blob":"AAAA"},{"kind":"key","id":"a","blob":"AAAA"}]}`, errs.Corrupt},
		"a long blob":   {`{"suite":1,"wraps":[{"kind":"key","id":"a","blob":"` + strings.Repeat("AAAA", maxBlob/3+1) + `"}]}`, errs.Corrupt},
		"a long id":     {`{"suite":1,"wraps":[{"kind":"key","id":"` + strings.Repeat("A", maxID+1) + `","blob":"AAAA"}]}`, errs.Corrupt},
		"an empty blob": {`{"suite":1,"wraps":[{"kind":"key","id":"a","blob":""}]}`, errs.Corrupt},
		"no suite":      {`{"wraps":[{"kind":"key","id":"a","blob":"AAAA"}]}`, errs.Unsupported},
		"a new field":   {`{"suite":1,"more":1,"wraps":[{"kind":"key","id":"a","blob":"AAAA"}]}`, errs.Corrupt},
		"more after it": {wraps(1, key) + "1", errs.Corrupt}, "no JSON": {"{", errs.Corrupt},
	} {
		_, err := decode(frame(t, c.head, nil))
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	newer := golden(t)
	newer[4] = 2
	if _, err := decode(newer); !errors.Is(err, errs.Unsupported) {
		t.Errorf("a newer version: %v", err)
	}
	if _, err := decode(make([]byte, maxSize+1)); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a long keyring: %v", err)
	}
}

// TestBody: a body that is authentic and wrong is refused; one that has more than this
// release knows, too: who changes a keyring would lose it.
func TestBody(t *testing.T) {
	const head = `{"suite":1,"wraps":[{"kind":"key","id":"a","blob":"AAAA"}]}`
	for name, change := range map[string]func(*contents){
		"no tenant": func(c *contents) { c.Tenant = "" }, "a long tenant": func(c *contents) { c.Tenant = strings.Repeat("a", 101) },
		"no conv": func(c *contents) { c.Conv = nil }, "a short old conv": func(c *contents) { c.OldConv = [][]byte{{1}} },
		"many old convs": func(c *contents) { c.OldConv = slices.Repeat([][]byte{count(1)}, maxConvs) }, "a short name": func(c *contents) { c.Name = c.Name[1:] },
		"no roots": func(c *contents) { c.Roots = nil }, "no current root": func(c *contents) { c.Roots[2].State = Old },
		"two current roots": func(c *contents) { c.Roots[1].State = Current }, "root 0": func(c *contents) { c.Roots[0].Number = 0 },
		"roots out of order": func(c *contents) { c.Roots[1].Number = 3 }, "a short root": func(c *contents) { c.Roots[1].Key = c.Roots[1].Key[:31] },
		"a retired root with a key": func(c *contents) { c.Roots[0].Key = count(1) }, "a state": func(c *contents) { c.Roots[0].State = "other" },
		"a grant of itself": func(c *contents) { c.Grants[0].Domain = goldenDomain }, "a grant of domain 0": func(c *contents) { c.Grants[0].Domain = 0 },
		"names that are neither": func(c *contents) { c.Names = "clear" }, "a public one's names hidden": func(c *contents) { c.Names, c.Public = hiddenNames, true },
		"a moving one's names hidden": func(c *contents) { c.Names, c.Plain = hiddenNames, true },
		"a grant without roots":       func(c *contents) { c.Grants[0].Roots = nil }, "a grant without conv": func(c *contents) { c.Grants[0].Conv = nil },
	} {
		c := goldenContents()
		change(c)
		plain, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		o, err := decode(frame(t, head, plain))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.open(keyOf(t, goldenKEK)); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s is read: %v", name, err)
		}
		if _, err := encode(goldenDomain, 1, goldenPrev, o.header, keyOf(t, goldenKEK), c); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s is written: %v", name, err)
		}
	}
	o, err := decode(frame(t, head, []byte(`{"tenant":"acme","more":1}`)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.open(keyOf(t, goldenKEK)); !errors.Is(err, errs.Unsupported) {
		t.Errorf("a field that is not known: %v", err)
	}
	many := goldenContents()
	for len(many.Roots) < 1000 {
		many.rotate(time.Now())
	}
	if _, err := encode(goldenDomain, 1, goldenPrev, o.header, keyOf(t, goldenKEK), many); !errors.Is(err, errs.Invalid) {
		t.Errorf("a keyring of more than 64 KiB is written: %v", err)
	}
}

// TestForgedSuccessor: a keyring that follows by its hash, and opens, but does not have the
// secrets of the one before, is refused by who has that open.
func TestForgedSuccessor(t *testing.T) {
	ctx, key := t.Context(), goldenKey(t)
	store := objstore.NewMem(objstore.Clock{})
	if err := store.Put(ctx, objectKey(goldenDomain, goldenNumber), golden(t)); err != nil {
		t.Fatal(err)
	}
	k := &Keyrings{Store: store, Providers: []Provider{key}, Now: time.Now}
	r, err := k.Open(ctx, goldenDomain, "acme", Seen{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*contents){
		"":                         func(c *contents) { c.rotate(time.Now()) },
		"another secret for names": func(c *contents) { c.Name = count(9) }, "another root": func(c *contents) { c.Roots[1].Key = count(9) },
		"another secret for ids": func(c *contents) { c.Conv = count(9) },
		"a root less":            func(c *contents) { c.Roots = c.Roots[1:] }, "a root that was retired": func(c *contents) { c.Roots[0].State, c.Roots[0].Key = Old, count(9) },
	} {
		c := goldenContents()
		change(c)
		kek := seal.NewKey()
		w, err := key.Wrap(ctx, goldenDomain, kek)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := encode(goldenDomain, goldenNumber+1, r.hash, header{1, []Wrap{w}}, kek, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Put(ctx, objectKey(goldenDomain, goldenNumber+1), raw); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Refresh(ctx, r); name == "" && err != nil || name != "" && !errors.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzDecode: bytes that nobody vouches for give no keyring, and cost what their number may.
func FuzzDecode(f *testing.F) {
	raw := golden(f)
	f.Add(raw)
	for _, at := range []int{4, 8, 52, 56, 70, 200, len(raw) - 1} {
		flipped := slices.Clone(raw)
		flipped[at] ^= 0x10
		f.Add(flipped)
	}
	key := goldenKey(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		// A header is decoded with its wraps, hashed, and a body is copied and decoded: JSON
		// of n bytes takes several times n, in small pieces.
		fuzztest.Bound(t, len(b), 64<<10, 40, func() {
			r, err := openRaw(context.Background(), b, key)
			if err == nil && !bytes.Equal(b, raw) {
				t.Errorf("%x is taken for %v", b, r)
			}
		})
	})
}

// FuzzBody: the contents that a tag confirms are checked all the same.
func FuzzBody(f *testing.F) {
	plain, err := json.Marshal(goldenContents())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte(`{"tenant":"acme","roots":[{"n":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 50<<10 {
			return
		}
		o, err := decode(frame(t, `{"suite":1,"wraps":[{"kind":"key","id":"a","blob":"AAAA"}]}`, b))
		if err != nil {
			t.Fatal(err)
		}
		kek := keyOf(t, goldenKEK)
		fuzztest.Bound(t, len(b), 64<<10, 40, func() {
			c, err := o.open(kek)
			if err != nil {
				return
			}
			r := &Ring{domain: o.domain, header: o.header, c: func() *contents { return c }}
			if _, err := r.Keys(); err != nil {
				t.Errorf("checked contents have no keys: %v", err)
			}
		})
	})
}

// TestSecretsAreNotPrinted prints what holds secrets in every way.
func TestSecretsAreNotPrinted(t *testing.T) {
	raw := golden(t)
	r, err := openRaw(t.Context(), raw, goldenKey(t))
	if err != nil {
		t.Fatal(err)
	}
	type outer struct {
		ring     *Ring
		value    Ring
		Exported any
	}
	for _, v := range []any{r, *r.c(), r.c(), r.c().Grants, r.c().Roots, r.Roots(), r.Wraps(), outer{r, *r, r}, &outer{r, *r, *r}} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if _, own := v.(contents); !own && fmt.Sprintf("%T", v) != "*keys.contents" && !strings.Contains(fmt.Sprintf("%T", v), "grant") && !strings.Contains(fmt.Sprintf("%T", v), "stored") {
			j, err := json.Marshal(v) // the contents' JSON is the body
			fmt.Fprintf(&out, "%s %v", j, err)
		}
		for _, from := range []byte{0, 0x20, 0x40, 0x60, 0x80, 0xa0} {
			b := count(from)
			for _, form := range []string{string(b), hex.EncodeToString(b), fmt.Sprintf("%X", b), fmt.Sprint(b)[1:50], fmt.Sprintf("%#v", b)[8:50]} {
				if strings.Contains(out.String(), form) {
					t.Errorf("%T: a secret is printed as %s", v, form)
				}
			}
		}
	}
}
