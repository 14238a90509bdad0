package cache

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/seal/sealtest"
)

// local is the key of the caches that tests open. All tests run without and with one.
var local *seal.Local

func TestMain(m *testing.M) { os.Exit(sealtest.Both(m, &local)) }

func withKey(t testing.TB, l *seal.Local) {
	before := local
	local = l
	t.Cleanup(func() { local = before })
}

// TestGoldenSealedSlab pins the bytes: docs/formats/slab.md has them.
func TestGoldenSealedSlab(t *testing.T) {
	l, err := layout{local: sealtest.Local("host-1")}.of(form{seal.Mark{Domain: 0x1a2b3c4d, Root: 1, Suite: seal.AES256GCM}, seal.SlabSalt{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	head := hex.EncodeToString(l.slabHead(8192))
	if want := "474c4453" + "03000000" + "00200000" + "00200000" + "9c7f7938" + "4d3c2b1a" + "01000000" + "01000000" + "01020300000000000000000000000000" + "36446266"; !strings.HasPrefix(head, want) {
		t.Errorf("the header is\n%s, not\n%s", head, want)
	}
	h := pack.Hash{1, 2, 3}
	raw := bytes.Repeat([]byte("glide"), 2000)[:5000]
	entry := make([]byte, l.entrySize(8192))
	l.encodeEntry(entry, &h, raw)
	if got, want := hex.EncodeToString(entry), hex.EncodeToString(h[:])+"88130000"+"7b3a1237"; got != want {
		t.Errorf("the entry is\n%s, not\n%s", got, want)
	}
	stored := l.seal(nil, &h, raw)
	if len(stored) != 5000+2*28 || len(stored) != l.stored(5000) {
		t.Fatalf("%d bytes", len(stored))
	}
	if got, err := l.keys.Open(nil, (*[32]byte)(&h), 1, stored[4096+28:]); err != nil || !bytes.Equal(got, raw[4096:]) {
		t.Errorf("page 1 opens as %q: %v", got, err)
	}
	again := l.seal(nil, &h, raw)
	if bytes.Equal(again[:12], stored[:12]) || bytes.Equal(stored[:12], stored[4124:4136]) {
		t.Error("a nonce is used twice")
	}
}

// TestNothingIsPlain: what the SSD tier stores is not readable, and any bit that is flipped
// in a page makes it a miss, and not other bytes.
func TestNothingIsPlain(t *testing.T) {
	for _, l := range []*seal.Local{nil, sealtest.Local("host-1")} {
		withKey(t, l)
		s, c, d, path := onDisk(t, 1)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if plain := bytes.Contains(b, s.raw[0][:32]) || bytes.Contains(b, s.raw[0][4096:4128]); plain == (l != nil) {
			t.Errorf("with the key %v: plain %v", l, plain)
		}
		at, _ := c.disk.find(&s.refs[0].Hash, size)
		at.done()
		p := make([]byte, 512)
		for at, end := at.at()+int64(at.stored(4096)), at.at()+int64(at.stored(8192)); at < end; at += 97 {
			for bit := range 8 {
				patch(t, path, at, []byte{b[at] ^ 1<<bit})
				if d.TryRead(&s.refs[0].Hash, size, p, 4096) {
					t.Fatalf("bit %d of byte %d is not noticed", bit, at)
				}
			}
			patch(t, path, at, b[at:at+1])
		}
		if !d.TryRead(&s.refs[0].Hash, size, p, 4096+1024) || !bytes.Equal(p, s.raw[0][5120:5632]) {
			t.Error("the page is not as it was")
		}
	}
}

// TestOtherForms: slabs of the other form, and those with other keys, are removed at the
// start, and the cache fills again.
func TestOtherForms(t *testing.T) {
	all := []*seal.Local{nil, sealtest.Local("host-1"), sealtest.Other("host-1")}
	for i, before := range all {
		for j, after := range all {
			withKey(t, before)
			s, c, _, path := onDisk(t, 1)
			c.Close()
			again, err := Open(Options{FS: vfs.Default, Dir: filepath.Dir(path), Disk: 1 << 30, Local: after, Store: s.store})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) == (i == j) {
				t.Errorf("from %v to %v: %v", before, after, err)
			}
			s.want(t, again.Domain("t", s.hasher, nil), 0)
			again.Close()
		}
	}
	withKey(t, sealtest.Local("host-1"))
	s, c, _, path := onDisk(t, 1)
	c.Close()
	again, err := Open(Options{FS: vfs.Default, Dir: filepath.Dir(path), Disk: 1 << 30, Local: sealtest.Local("host-2"), Store: s.store})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Domain("t", s.hasher, nil).ReadLocal(&s.refs[0].Hash, size, make([]byte, 512), 0) {
		t.Error("another host's block opens")
	}
}
