package crashtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestHistory(t *testing.T) {
	h := History{Start: make([]byte, 4), Ops: []Op{Write(0, []byte("ab")), {Off: 1, Len: 1}, Write(3, []byte("c"))}, Durable: 1}
	if got := h.Content(3); string(got) != "a\x00\x00c" {
		t.Errorf("content: %q", got)
	}
	old := h.Clone()
	h.Ops = append(h.Ops, Write(0, []byte("z")))
	for _, c := range []struct {
		got  string
		from int
		want int
	}{{"ab\x00\x00", 1, 1}, {"a\x00\x00c", 1, 3}, {"z\x00\x00c", 0, 4}, {"\x00\x00\x00\x00", 1, -1}, {"ab\x00\x00", 2, -1}} {
		if n := h.Prefix([]byte(c.got), c.from); n != c.want {
			t.Errorf("%q is prefix %d from %d, want %d", c.got, n, c.from, c.want)
		}
	}
	if n := old.Prefix([]byte("z\x00\x00c"), 0); n != -1 {
		t.Errorf("the clone has later ops: %d", n)
	}
	if s := h.Explain([]byte("aX\x00c"), 3); !strings.Contains(s, "byte 1 is 0x58") || !strings.Contains(s, "op 1 1+1 zero=true") {
		t.Error(s)
	}
}

// TestPowerLoss: what was synced is kept, what was not is not, and a sync that fails
// keeps nothing.
func TestPowerLoss(t *testing.T) {
	mem, err := NewMem("d")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	fs := NewFS(mem, func(where string) { said = append(said, where) })
	f, err := fs.Create("d/f", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.OpenDir("d")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(dir.Sync())
	write := func(s string, off int64) {
		t.Helper()
		_, err := f.WriteAt([]byte(s), off)
		must(err)
	}
	write("one", 0)
	must(f.SyncData())
	write("two", 3)
	fs.FailSyncs.Store(1)
	if f.SyncData() == nil {
		t.Error("a sync that has to fail did not")
	}
	for which, want := range []string{0: "one", 3: "onetwo"} {
		if want == "" {
			continue
		}
		left, percent := PowerLoss(mem, uint64(which), 1)
		g, err := left.Open("d/f")
		must(err)
		b := make([]byte, 6)
		n, _ := g.ReadAt(b, 0)
		if string(b[:n]) != want {
			t.Errorf("with %d%% kept there is %q, want %q", percent, b[:n], want)
		}
	}
	for _, where := range []string{"before sync d", "after write d/f", "after sync d/f"} {
		if !slices.Contains(said, where) {
			t.Errorf("the hook was not told %q: %q", where, said)
		}
	}
}
