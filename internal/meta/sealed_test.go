package meta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/seal/sealtest"
)

// local is the key of the metadata that tests open. All tests run without and with one.
var local *seal.Local

func TestMain(m *testing.M) { os.Exit(sealtest.Both(m, &local)) }

// onDisk returns the bytes of all files under a directory.
func onDisk(t *testing.T, fs vfs.FS, dir string) (all []byte) {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		f, err := fs.Open(path)
		must(t, err)
		if st, err := f.Stat(); err == nil && st.IsDir() {
			all = append(all, onDisk(t, fs, path)...)
		} else {
			b, err := io.ReadAll(f)
			must(t, err)
			all = append(all, b...)
		}
		must(t, f.Close())
	}
	return all
}

// secrets are what fill stores: of each kind of key, a value, and the name of a volume that
// is in the key of a fact.
var secrets = []string{"the-name-of-a-volume", "a-record-of-a-volume", "a-page-of-a-block-map", "a-value-of-a-fact"}

func fill(t *testing.T, db *DB) {
	t.Helper()
	must(t, db.SetFact("first/t/"+secrets[0], []byte(secrets[3])))
	must(t, db.SaveVolumes(Record{"v1", []byte(secrets[1])}))
	must(t, db.SaveVolumesSoon(Record{"v2", []byte(secrets[1])}))
	must(t, db.AddPage(pack.Hash{1}, []byte(secrets[2])))
	must(t, db.AddBlocks("t", []pack.Ref{{Hash: pack.Hash{2}, Len: 9}}))
}

func has(t *testing.T, db *DB) {
	t.Helper()
	if v, err := db.Fact("first/t/" + secrets[0]); err != nil || string(v) != secrets[3] {
		t.Errorf("the fact is %q, %v", v, err)
	}
	var names []string
	must(t, db.Facts("first/", func(name string, v []byte) error {
		names = append(names, name+"="+string(v))
		return nil
	}))
	if want := []string{"first/t/" + secrets[0] + "=" + secrets[3]}; !slices.Equal(names, want) {
		t.Errorf("the facts are %q", names)
	}
	model{"v1": []byte(secrets[1]), "v2": []byte(secrets[1])}.check(t, db, "now")
	if p, err := db.Page(pack.Hash{1}); err != nil || string(p) != secrets[2] {
		t.Errorf("the page is %q, %v", p, err)
	}
	if list, err := db.PagesAfter(nil, 9); err != nil || len(list) != 1 || string(list[0].Page) != secrets[2] {
		t.Errorf("the pages are %v, %v", list, err)
	}
	if ref, err := db.Block("t", pack.Hash{2}); err != nil || ref.Len != 9 {
		t.Errorf("the block is %v, %v", ref, err)
	}
}

// TestNothingIsPlain: with a key, neither values nor names of volumes are in a file; and
// the metadata opens with that key only.
func TestNothingIsPlain(t *testing.T) {
	for _, l := range []*seal.Local{nil, sealtest.Local("host-1")} {
		fs := vfs.NewMem()
		must(t, fs.MkdirAll("meta", 0o700))
		db, err := Open(Options{Local: l, FS: fs, Dir: "meta"})
		must(t, err)
		fill(t, db)
		has(t, db)
		must(t, db.Close())
		b := onDisk(t, fs, "meta")
		for _, s := range secrets {
			if plain := bytes.Contains(b, []byte(s)); plain == (l != nil) {
				t.Errorf("%q, with the key %v: plain %v", s, l, plain)
			}
		}
		var dump bytes.Buffer
		must(t, Dump(&dump, fs, "meta"))
		if l != nil && !strings.Contains(dump.String(), "v/v1: sealed") {
			t.Errorf("the dump is %s", &dump)
		}
		db, err = Open(Options{Local: l, FS: fs, Dir: "meta"})
		must(t, err)
		has(t, db)
		must(t, db.Close())
		for _, other := range []*seal.Local{nil, sealtest.Other("host-1"), sealtest.Local("host-2")} {
			if l == nil {
				break
			}
			if _, err := Open(Options{Local: other, FS: fs, Dir: "meta"}); !errors.Is(err, seal.ErrLocked) || errs.KindOf(err) != errs.Unavailable {
				t.Errorf("with %v: %v", other, err)
			}
		}
	}
}

// TestSealedLater: metadata that was plain is sealed when a key is given for the first time,
// and nothing of what was plain stays, wherever the first start with the key is cut off.
func TestSealedLater(t *testing.T) {
	for cut := int64(0); cut < 60; cut++ {
		disk := newBreakable(errors.New("cut off"))
		must(t, disk.MkdirAll("meta", 0o700))
		db, err := Open(Options{FS: disk, Dir: "meta"})
		must(t, err)
		fill(t, db)
		for i := range 300 { // several batches
			must(t, db.AddPage(pack.Hash{9, byte(i), byte(i >> 8)}, bytes.Repeat([]byte(secrets[2]), 500)))
		}
		must(t, db.Close())
		disk.from.Store(disk.changes.Load() + cut)
		if cut == 0 {
			disk.from.Store(0)
		}
		db, err = Open(Options{Local: sealtest.Local("host-1"), FS: disk, Dir: "meta"})
		if err == nil {
			if disk.mended.Store(true); db.Err() != nil {
				must(t, db.Revive())
			}
			must(t, db.Close())
		}
		clone := disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(cut%2) * 100, RNG: rand.New(rand.NewPCG(uint64(cut), 1))})
		db, err = Open(Options{Local: sealtest.Local("host-1"), FS: clone, Dir: "meta"})
		if err != nil {
			t.Fatalf("cut off at change %d: %v", cut, err)
		}
		for i := range 300 {
			must(t, db.ForgetPage(pack.Hash{9, byte(i), byte(i >> 8)}))
		}
		has(t, db)
		must(t, db.Close())
		for _, s := range secrets {
			if bytes.Contains(onDisk(t, clone, "meta"), []byte(s)) {
				t.Errorf("cut off at change %d: %q is still plain", cut, s)
			}
		}
	}
}

// TestDamagedValues: a flipped bit of a sealed value is damage, and a plain value is not
// taken for a sealed one. A page that does not open is fetched again.
func TestDamagedValues(t *testing.T) {
	v := &values{local: sealtest.Local("host-1"), strict: true}
	for _, key := range []string{"v/1", "m/1", "h/name"} {
		stored := v.stored([]byte(key))
		raw := v.seal(stored, []byte(key), []byte("value"))
		if k, got, err := v.open(stored, raw); err != nil || string(k) != key || string(got) != "value" {
			t.Fatalf("%q is %q, %v", k, got, err)
		}
		for bit := range 8 * len(raw) {
			changed := bytes.Clone(raw)
			changed[bit/8] ^= 1 << (bit % 8)
			if _, got, err := v.open(stored, changed); err == nil || got != nil {
				t.Errorf("%s: bit %d: %q", key, bit, got)
			}
		}
		if _, _, err := v.open(append(stored, 'x'), raw); !errors.Is(err, seal.ErrTag) {
			t.Errorf("%s, under another key: %v", key, err)
		}
		if _, _, err := v.open(stored, []byte("value")); errs.KindOf(err) != errs.Corrupt {
			t.Errorf("%s: a plain value: %v", key, err)
		}
		if bytes.Equal(raw, v.seal(stored, []byte(key), []byte("value"))) {
			t.Errorf("%s: the nonce is the same", key)
		}
	}
	fs := vfs.NewMem()
	must(t, fs.MkdirAll("meta", 0o700))
	db, err := Open(Options{Local: v.local, FS: fs, Dir: "meta"})
	must(t, err)
	db.vals.local = nil // stores a plain page
	must(t, db.AddPage(pack.Hash{1}, []byte("plain")))
	db.vals.local = v.local
	if p, err := db.Page(pack.Hash{1}); p != nil || err != nil {
		t.Errorf("the page is %q, %v", p, err)
	}
	if list, err := db.PagesAfter(nil, 1); err != nil || len(list) != 1 || list[0].Page != nil {
		t.Errorf("the pages are %v, %v", list, err)
	}
	must(t, db.Close())
}

// TestGoldenValue: what an earlier release sealed opens.
func TestGoldenValue(t *testing.T) {
	v := &values{local: sealtest.Local("host-1"), strict: true}
	stored := v.stored([]byte("h/first/t/v"))
	if string(stored) != goldenKey {
		t.Errorf("the key is %q", stored)
	}
	if os.Getenv("GLIDE_UPDATE") != "" {
		t.Logf("%x", v.seal(stored, []byte("h/first/t/v"), []byte("glide")))
	}
	var raw []byte
	if _, err := fmt.Sscanf(goldenValue, "%x", &raw); err != nil {
		t.Fatal(err)
	}
	if key, value, err := v.open([]byte(goldenKey), raw); err != nil || string(key) != "h/first/t/v" || string(value) != "glide" {
		t.Errorf("%q is %q, %v", key, value, err)
	}
}

const (
	goldenKey   = "h/yeyqmlp7ge3ixianoa42iyfba4"
	goldenValue = "474c44564d3c2b1a0100000001000000a916c683a329aff7efc6cd06bd3119732fdb01080896c295c815d8721cade4cc9debeab48f216ca6b6c26bbb"
)
