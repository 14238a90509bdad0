package volume

import (
	"context"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
	"github.com/paraglide/glide/internal/wal"
)

// nowhere is an empty store.
type nowhere struct{}

func (nowhere) Page(context.Context, pack.Ref) ([]byte, error) {
	return nil, errs.New(errs.NotFound, "no such page")
}

func (nowhere) Block(context.Context, *pack.Ref, int) ([]byte, error) {
	return nil, errs.New(errs.NotFound, "no such block")
}

func (nowhere) Fetch(context.Context, *pack.Ref, int, []byte, int) error {
	return errs.New(errs.NotFound, "no such block")
}

func (nowhere) TryRead(*pack.Hash, int, []byte, int) bool { return false }

func (nowhere) ReadLocal(*pack.Hash, int, []byte, int) bool { return false }

func (nowhere) Prefetch([]pack.Ref, int) {}

func (nowhere) WillNeed([]pack.Ref, int) {}

func (nowhere) Touch(*pack.Hash) int { return 0 }

func (nowhere) Ahead([]pack.Ref, int, int, *readahead.Credit) {}

// FuzzState opens volumes from arbitrary records.
func FuzzState(f *testing.F) {
	for _, st := range []State{
		{Version: 1, ID: ID{1}, Tenant: "default", Name: "v", Size: 1 << 30, BlockSize: 128 << 10, Mode: Active, Durability: "local", RPO: time.Second},
		{
			Version: 1, ID: ID{2}, Tenant: "acme", Name: "w", Size: 1 << 40, BlockSize: 4096, Mode: Asleep, Durability: "sync", Labels: map[string]string{"a": "b"},
			Parent: &Parent{Name: "v", ID: ID{1}, Generation: "1.2"}, Root: blockmap.Root{Ref: pack.Ref{Hash: pack.Hash{3}, Off: 16, Len: 99}, Height: 5},
			RootBlocks: 1 << 28, Folded: 7, Floor: 5, Used: 9, Segments: []wal.Ref{{Number: 0, Incarnation: 1, Limit: 9}, {Number: 1 << 31}},
			Published: &Published{Epoch: 1, Number: 2},
		},
		{Version: 1, ID: ID{3}, Name: "v", SnapshotOf: ID{1}, Snapshot: "s", Generation: "1.1", Size: 512, BlockSize: 4096, Mode: Active},
	} {
		b, err := json.Marshal(st)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var st State
		var err error
		// JSON into strings, maps and a list of segments.
		fuzztest.Bound(t, len(b), 0, 64, func() { err = json.Unmarshal(b, &st) })
		if err != nil || st.Validate() != nil {
			return
		}
		again, err := json.Marshal(&st)
		if err != nil {
			return // the record has a time that JSON cannot represent
		}
		var back State
		if err := json.Unmarshal(again, &back); err != nil || back.Validate() != nil || back.Blocks() != st.Blocks() || !reflect.DeepEqual(back.Segments, st.Segments) && len(st.Segments) > 0 {
			t.Errorf("%s came back as %+v, %v", again, back, err)
		}
		fuzztest.Bound(t, len(b), 4<<20, 256, func() { openRecord(t, st) })
	})
}

// openRecord opens the volume of a record on an empty log. It may fail.
func openRecord(t *testing.T, st State) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("wal", 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := wal.Open(wal.Options{FS: fs, Dir: "wal", SegmentBytes: 64 << 10, Local: local, Rand: func() uint64 { return 1 }})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	env := Env{
		Log: p, Pages: blockmap.NewPageCache(1<<20).Source(nowhere{}, pack.NewHasher("default")), Blocks: nowhere{},
		Save: func(...*State) error { return nil }, Now: time.Now,
	}
	for _, force := range []bool{false, true} {
		v, err := Open(env, st, force)
		if err != nil {
			continue
		}
		_ = v.ReadAt(make([]byte, 512), st.Size-512) // there may be nothing to read
		_ = v.Close()
		v.Discard()
	}
}
