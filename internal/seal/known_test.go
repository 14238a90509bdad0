package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/paraglide/glide/internal/seal"
)

const (
	domain = 0x0a0b0c0d
	host   = "host-1"
	number = 7
)

// fill returns 32 bytes that count up from b.
func fill(b byte) (out [32]byte) {
	for i := range out {
		out[i] = b + byte(i)
	}
	return out
}

func keyOf(tb testing.TB, b [32]byte) seal.Key {
	tb.Helper()
	k, err := seal.KeyOf(b[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// open makes the domain of the tests, whose secrets count up from 0, 0x40 and 0x80.
func open(tb testing.TB, suite seal.Suite) *seal.Domain {
	tb.Helper()
	d, err := seal.New(seal.Secrets{
		Domain: domain, Suite: suite, Current: number,
		Roots: map[uint32]seal.Key{number: keyOf(tb, fill(0)), number - 1: keyOf(tb, fill(0x20))}, Retired: []uint32{1},
		Conv: keyOf(tb, fill(0x40)), Name: keyOf(tb, fill(0x80)),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// expand is the derivation, spelled out: the domain's bytes are those of
// binary.LittleEndian.
func expand(tb testing.TB, secret [32]byte, label string) []byte {
	tb.Helper()
	out, err := hkdf.Expand(sha256.New, secret[:], "glide/1/"+label+"\x0d\x0c\x0b\x0a", 32)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// known has the values that were frozen: what changes one makes stored bytes unreadable.
// A line is "name: hex". A value that is missing fails, and says what to add.
var known = sync.OnceValues(func() (map[string]string, error) {
	raw, err := os.ReadFile("testdata/known.txt")
	values := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		values[name] = value
	}
	return values, err
})

// expectKnown compares with what was frozen.
func expectKnown(t *testing.T, name string, got []byte) {
	t.Helper()
	values, err := known()
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != values[name] {
		t.Errorf("not what was frozen; now it is\n%s: %x", name, got)
	}
}

// TestKnownDerivations spells each derivation out with the primitives.
func TestKnownDerivations(t *testing.T) {
	root := fill(0)
	for _, label := range []string{"block", "data", "page", "index", "state", "local" + host, "header", "body", "wrap"} {
		want := expand(t, root, label)
		if got := keyOf(t, root).Derive(label, domain).Append(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", label, got, want)
		}
		expectKnown(t, "key "+label, want)
	}
	d := open(t, seal.AES256GCM)
	hash := expand(t, fill(0x40), "hash")
	if got := d.DedupSecret().Append(nil); !bytes.Equal(got, hash) {
		t.Errorf("hash: %x, want %x", got, hash)
	}
	expectKnown(t, "key hash", hash)
	b, err := blake3.NewKeyed(d.DedupSecret().Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	b.Write([]byte("a block"))
	expectKnown(t, "id of a block", b.Sum(nil))

	name := mac(expand(t, fill(0x80), "name"), []byte("web"))
	if got, want := d.HideName("web"), strings.ToLower(strings.TrimRight(base32.StdEncoding.EncodeToString(name[:16]), "=")); got != want {
		t.Errorf("hidden name %s, want %s", got, want)
	}
	expectKnown(t, "hidden name", []byte(d.HideName("web")))

	first, second := fill(1), fill(2)
	ids := append(first[:], second[:]...)
	content, err := d.PackContent(number, [12]byte{1, 2, 3}, ids)
	if want := mac(expand(t, root, "index"), []byte{1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}, ids); err != nil || !bytes.Equal(content[:], want[:12]) {
		t.Errorf("content %x, want %x (%v)", content, want[:12], err)
	}
	expectKnown(t, "content of a pack", content[:])
	key := keyOf(t, root)
	tag := key.MAC([]byte("all before"))
	if !bytes.Equal(tag[:], mac(root[:], []byte("all before"))) {
		t.Errorf("MAC %x", tag)
	}
}

// place is one kind of what is sealed: its object key and additional data, spelled out.
type place struct {
	name  string
	label string
	salt  []byte // nil: 16 bytes that stand in the sealed bytes from 8
	aad   []byte
	head  int // bytes before the nonce
	seal  func(d *seal.Domain, plain []byte) []byte
	open  func(d *seal.Domain, sealed []byte) ([]byte, error)
}

var (
	header    = bytes.Repeat([]byte{0xb5}, 56)
	trailer   = bytes.Repeat([]byte{0x7a}, 64)
	content12 = [12]byte{1, 1, 1}
	nonce12   = [12]byte{2, 2, 2}
	le        = binary.LittleEndian
)

const commitKey = "t/acme/volumes/web/log/1.1"

func places(suite seal.Suite) []place {
	id := fill(9)
	number32 := le.AppendUint32(nil, domain)
	slot := func(name string, p seal.Purpose) place {
		return place{name: name, label: name, salt: id[:], aad: join("slot", number32, header[:20]),
			seal: func(d *seal.Domain, plain []byte) []byte { return d.SealSlot(nil, p, id, header, plain) },
			open: func(d *seal.Domain, b []byte) ([]byte, error) {
				return d.OpenSlot(nil, p, number, suite, id, header, b)
			}}
	}
	section := func(name string, p seal.Purpose) place {
		return place{name: name, label: name, head: 24, aad: join(name, []byte(commitKey), header[:52]),
			seal: func(d *seal.Domain, plain []byte) []byte { return d.SealSection(nil, p, commitKey, header, plain) },
			open: func(d *seal.Domain, b []byte) ([]byte, error) { return d.OpenSection(nil, p, commitKey, header, b) }}
	}
	return []place{
		slot("block", seal.Block), slot("page", seal.Page), section("state", seal.State), section("data", seal.Data),
		{name: "index", label: "index", salt: join("", content12[:], nonce12[:]), aad: trailer[:40],
			seal: func(d *seal.Domain, plain []byte) []byte {
				return d.SealIndex(nil, content12, nonce12, trailer, plain)
			},
			open: func(d *seal.Domain, b []byte) ([]byte, error) {
				return d.OpenIndex(nil, number, suite, content12, nonce12, trailer, b)
			}},
		{name: "slab", label: "local" + host, salt: join("slab", slabSalt[:]), aad: join("slab", id[:], number32, []byte(host), []byte{7, 0, 0, 0}),
			seal: func(d *seal.Domain, plain []byte) []byte { return sealPage(d.Local(host), &id, 7, plain) },
			open: func(d *seal.Domain, b []byte) ([]byte, error) {
				return openPage(d.Local(host), number, suite, &id, 7, b)
			}},
		{name: "meta", label: "local" + host, salt: []byte("metam/key"), aad: join("metam/key", number32, []byte(host)),
			seal: func(d *seal.Domain, plain []byte) []byte { return d.Local(host).SealValue(nil, []byte("m/key"), plain) },
			open: func(d *seal.Domain, b []byte) ([]byte, error) {
				return d.Local(host).OpenValue(nil, number, suite, []byte("m/key"), b)
			}},
	}
}

var slabSalt = seal.SlabSalt{0x51, 0x52, 15: 0x5f}

func sealPage(l *seal.Local, id *[32]byte, n uint32, plain []byte) []byte {
	s, err := l.Slab(l.Mark(), slabSalt)
	if err != nil {
		panic(err)
	}
	return s.Seal(nil, id, n, plain)
}

func openPage(l *seal.Local, root uint32, suite seal.Suite, id *[32]byte, n uint32, sealed []byte) ([]byte, error) {
	s, err := l.Slab(seal.Mark{Domain: l.Mark().Domain, Root: root, Suite: suite}, slabSalt)
	if err != nil {
		return nil, err
	}
	return s.Open(nil, id, n, sealed)
}

func join(s string, more ...[]byte) []byte { return append([]byte(s), bytes.Join(more, nil)...) }

// cipherOf is the AEAD with the object key of a place, made of the primitives alone.
func cipherOf(t *testing.T, suite seal.Suite, p place, salt []byte) cipher.AEAD {
	t.Helper()
	key := mac(expand(t, fill(0), p.label), salt)
	var a cipher.AEAD
	block, err := aes.NewCipher(key)
	if err == nil {
		a, err = cipher.NewGCM(block)
	}
	if suite == seal.XChaCha20Poly1305 {
		a, err = chacha20poly1305.NewX(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var plaintext = []byte("what a guest wrote, and nobody else shall read")

// TestKnownAnswers opens what was sealed with nothing but the primitives, and bytes that
// were made with nothing but the primitives with the package.
func TestKnownAnswers(t *testing.T) {
	for _, suite := range []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305} {
		d := open(t, suite)
		for _, p := range places(suite) {
			sealed := p.seal(d, plaintext)
			if p.head != 0 {
				if le.Uint32(sealed) != number || seal.Suite(sealed[4]) != suite || sealed[5]|sealed[6]|sealed[7] != 0 {
					t.Errorf("%s, %v: it begins with %x", p.name, suite, sealed[:8])
				}
				p.salt = sealed[8:24]
			}
			if want := p.head + len(plaintext) + suite.Overhead(); len(sealed) != want {
				t.Errorf("%s, %v: %d bytes, want %d", p.name, suite, len(sealed), want)
			}
			a, body := cipherOf(t, suite, p, p.salt), sealed[p.head:]
			got, err := a.Open(nil, body[:a.NonceSize()], body[a.NonceSize():], p.aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s, %v: the primitives open %q, %v", p.name, suite, got, err)
			}
		}
	}
}

// TestFrozen opens bytes that an earlier build sealed.
func TestFrozen(t *testing.T) {
	for _, suite := range []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305} {
		d := open(t, suite)
		for _, p := range places(suite) {
			// Made here of the primitives, with nonces that count up: what it must be.
			head := le.AppendUint32(nil, number)
			head = append(head, byte(suite), 0, 0, 0)
			salt := fill(0xc0)
			head = append(head, salt[:16]...)[:p.head]
			if p.head != 0 {
				p.salt = head[8:]
			}
			a := cipherOf(t, suite, p, p.salt)
			nonce := fill(0xe0)
			want := a.Seal(append(head, nonce[:a.NonceSize()]...), nonce[:a.NonceSize()], plaintext, p.aad)
			expectKnown(t, "sealed "+p.name+", "+suite.String(), want)
			if got, err := p.open(d, want); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s, %v: %q, %v", p.name, suite, got, err)
			}
		}
	}
}

// TestKnownStream: the keystream of a record is that of the primitive, from any offset.
func TestKnownStream(t *testing.T) {
	var writer [16]byte
	copy(writer[:], "writer's id, 16.")
	salt := join("wal", []byte{0xef, 0xbe, 0, 0, 0, 0, 0, 0}, []byte{3, 0, 0, 0}, writer[:])
	block, err := aes.NewCipher(mac(expand(t, fill(0), "local"+host), salt))
	if err != nil {
		t.Fatal(err)
	}
	seg, err := open(t, seal.AES256GCM).Local(host).Segment(number, 0xbeef, 3, writer)
	if err != nil {
		t.Fatal(err)
	}
	for _, iv := range []seal.IV{{}, {15: 0xff}, seal.IV(bytes.Repeat([]byte{0xff}, 16)), {7: 9, 8: 0xff, 9: 0xff, 10: 0xff, 11: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xfe}, seal.NewIV()} {
		want := make([]byte, 1000)
		cipher.NewCTR(block, iv[:]).XORKeyStream(want, want)
		for off := range 200 {
			for _, n := range []int{0, 1, 15, 16, 17, 700} {
				got := make([]byte, n)
				seg.XOR(got, got, iv, uint64(off))
				if !bytes.Equal(got, want[off:off+n]) {
					t.Fatalf("iv %x: %d bytes from %d differ", iv, n, off)
				}
			}
		}
		if iv == (seal.IV{}) {
			expectKnown(t, "keystream", want[:32])
		}
	}
}
