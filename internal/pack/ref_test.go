package pack

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

// plain and inDomain are IDs of which only the domain differs.
var (
	plain    = ID{Content: [12]byte{0xde, 0xad}, Nonce: nonce}
	inDomain = ID{Domain: 0x2a, Content: plain.Content, Nonce: nonce}
)

func TestKey(t *testing.T) {
	for id, want := range map[ID][2]string{
		plain: {
			"packs/de/dead00000000000000000000-a00102030405060700000001",
			"dead00000000000000000000-a00102030405060700000001",
		},
		inDomain: {
			"d/0000002a/packs/de/dead00000000000000000000-a00102030405060700000001",
			"0000002a.dead00000000000000000000-a00102030405060700000001",
		},
		{Domain: 1<<32 - 1}: {
			"d/ffffffff/packs/00/000000000000000000000000-000000000000000000000000",
			"ffffffff.000000000000000000000000-000000000000000000000000",
		},
	} {
		if got := [2]string{id.Key(), id.String()}; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, err := ParseKey(want[0]); err != nil || got != id {
			t.Errorf("%s is %s, %v", want[0], got, err)
		}
		if got, ok := ParseID(want[1]); !ok || got != id {
			t.Errorf("%s is %s", want[1], got)
		}
	}
}

func TestParseKey(t *testing.T) {
	for _, good := range []string{plain.Key(), inDomain.Key()} {
		for _, bad := range []string{
			"", "packs/", "d/", "d/0000002a/", "d/0000002a/packs/", strings.ToUpper(good), good + "0", good + "/", good[:len(good)-1],
			strings.Replace(good, "de/", "df/", 1), strings.Replace(good, "de/", "", 1), strings.Replace(good, "-", "0", 1), strings.Replace(good, "dead", "xxxx", 1),
			"x" + good, "/" + good, strings.Replace(good, "packs", "Packs", 1), strings.Replace(good, "packs", "refs", 1), strings.Replace(good, "dead", "-ead", 1),
			strings.Replace(good, "dead", "0000002a.dead", 1), "d/00000000/" + plain.Key(), "d/2a/" + plain.Key(), "d/0000002A/" + plain.Key(),
			"d/+000002a/" + plain.Key(), "d/10000002a/" + plain.Key(), "d/0000002a/" + inDomain.Key(), "d//" + plain.Key(), "d/" + plain.Key(),
		} {
			if id, err := ParseKey(bad); !errors.Is(err, errs.Invalid) || id != (ID{}) {
				t.Errorf("%q: %s, %v", bad, id, err)
			}
		}
	}
}

func TestParseID(t *testing.T) {
	name := plain.String()
	for _, good := range []string{name, inDomain.String()} {
		for _, bad := range []string{
			"", ".", "-", good + "0", "0" + good, good[:len(good)-1], good[1:], strings.ToUpper(good), strings.Replace(good, "-", ".", 1), strings.Replace(good, "-", "", 1),
			strings.Replace(good, "dead", "dea", 1), strings.Replace(good, "dead", "deaz", 1), " " + good, "." + good, good + ".", "0000002a." + good + "-",
			"00000000." + name, "2a." + name, "0000002A." + name, "+000002a." + name, "0x00002a." + name, "000_002a." + name, "10000002a." + name,
			"0000002a.0000002a." + name, "0000002a" + name, "0000002a-" + name,
		} {
			if id, ok := ParseID(bad); ok || id != (ID{}) {
				t.Errorf("%q is %s", bad, id)
			}
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(plain.String())
	f.Add(inDomain.String())
	f.Add(plain.Key())
	f.Add(inDomain.Key())
	f.Fuzz(func(t *testing.T, text string) {
		if id, ok := ParseID(text); ok && id.String() != text {
			t.Errorf("%q was read as %q", text, id)
		}
		if id, err := ParseKey(text); err == nil && id.Key() != text {
			t.Errorf("%q was read as %q", text, id.Key())
		}
	})
}

func TestCompare(t *testing.T) {
	sorted := []ID{
		{}, {Nonce: [12]byte{11: 1}}, {Nonce: [12]byte{1}}, {Content: [12]byte{11: 1}}, {Content: [12]byte{1}},
		{Domain: 1}, {Domain: 2, Nonce: [12]byte{1}}, {Domain: 256}, {Domain: 1 << 31},
	}
	got := slices.Clone(sorted)
	slices.Reverse(got)
	if slices.SortFunc(got, ID.Compare); !slices.Equal(got, sorted) {
		t.Errorf("got %v, want %v", got, sorted)
	}
	for i, id := range sorted {
		if zero := i == 0 || id == (ID{Domain: id.Domain}); id.IsZero() != zero || id.Compare(id) != 0 {
			t.Errorf("%s: IsZero is %v", id, id.IsZero())
		}
	}
}

func TestRef(t *testing.T) {
	ref := Ref{Hash: Hash{1, 31: 2}, Pack: plain, Off: 0x01020304, Len: 0x0a0b0c0d}
	const rest = "0100000000000000000000000000000000000000000000000000000000000002" + "dead00000000000000000000" + "a00102030405060700000001" + "04030201" + "0d0c0b0a"
	domain := ref
	domain.Pack = inDomain
	for _, c := range []struct {
		ref  Ref
		n    int
		want string
	}{{ref, RefLen, rest}, {ref, DomainRefLen, "00000000" + rest}, {domain, DomainRefLen, "2a000000" + rest}} {
		b := c.ref.Append([]byte("before"), c.n)
		if got := hex.EncodeToString(bytes.TrimPrefix(b, []byte("before"))); got != c.want || len(b)-6 != c.n {
			t.Errorf("got %s, want %s", got, c.want)
		}
		if back := ReadRef(b[6:]); *back != c.ref {
			t.Errorf("%v came back as %v", c.ref, *back)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a domain was left out")
		}
	}()
	domain.Append(nil, RefLen)
}
