package meta

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/pack"
)

// TestIndexEntries: an entry names the domain of its pack if that is not 0, and one that
// would not be written like that is none.
func TestIndexEntries(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("meta", 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := Open(Options{Local: local, FS: fs, Dir: "meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	const place = "0a0b00000000000000000000" + "0c0d00000000000000000000" + "01020304" + "05060708"
	for i, c := range []struct {
		domain uint32
		value  string
	}{{0, place}, {0x2a, "0000002a" + place}, {1<<32 - 1, "ffffffff" + place}} {
		ref := pack.Ref{
			Hash: pack.Hash{byte(i + 1)}, Pack: pack.ID{Domain: c.domain, Content: [12]byte{0xa, 0xb}, Nonce: [12]byte{0xc, 0xd}},
			Off: 0x01020304, Len: 0x05060708,
		}
		if err := db.AddBlocks("acme", []pack.Ref{ref}); err != nil {
			t.Fatal(err)
		}
		if got, err := db.Block("acme", ref.Hash); err != nil || got != ref {
			t.Errorf("got %v, %v, want %v", got, err, ref)
		}
		v, err := db.lookup(blockKey("acme", &ref.Hash))
		if got := hex.EncodeToString(v); err != nil || got != c.value {
			t.Errorf("the entry is %s, %v, want %s", got, err, c.value)
		}
		var dump bytes.Buffer
		if err := dumpKey(&dump, blockKey("acme", &ref.Hash), v); err != nil || !strings.Contains(dump.String(), " in "+ref.Pack.Key()+"\n") {
			t.Errorf("the dump is %q, %v", dump.String(), err)
		}
	}
	for _, bad := range []string{"", "00", place[2:], place + "00", "00000000" + place, "0000002a" + place + "00", "2a" + place} {
		v, err := hex.DecodeString(bad)
		if err != nil {
			t.Fatal(err)
		}
		if ref, ok := blockRef(pack.Hash{1}, v); ok || ref != (pack.Ref{}) {
			t.Errorf("%q is %v", bad, ref)
		}
	}
}
