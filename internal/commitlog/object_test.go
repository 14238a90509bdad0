package commitlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/pack"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fullState has something in every field.
func fullState() State {
	return State{
		Identity: Identity{
			ID: volumeID(7), Tenant: "acme", Name: "db", Owner: Host{ID: "host-a", Addresses: []string{"tcp:10.0.0.1:9000"}},
			Time: someDay, Cause: CauseFlush,
		},
		Size: 1 << 30, BlockSize: 128 << 10, Durability: "continuous", RPOMillis: 5000,
		Labels: map[string]string{"team": "storage"}, Limits: Limits{IOPS: 1000, Bandwidth: 1 << 20, DirtyBudget: 1 << 30},
		CreatedAt: someDay, Parent: &Parent{Name: "base", ID: volumeID(8), Generation: Generation{Epoch: 3, Number: 10}},
		Root: someRoot(1), Seq: 12345,
		DataCommits: []DataRun{{Name: "db", Epoch: 4, First: 2, Last: 2, Hash: ObjectHash{1, 2, 3}, Count: 1, Bytes: 99}}, DataSeq: 12400,
		Snapshots: []Snapshot{
			{Name: "empty", Size: 512, CreatedAt: someDay},
			{Name: "before", Root: someRoot(2), Size: 1 << 30, Seq: 100, Generation: Generation{Epoch: 4, Number: 1}, CreatedAt: someDay},
		},
		ImportDigest: "blake3:00ff", BlocksMapped: 100, StoredBytes: 2000, RenamedFrom: "old-db", Reserved: true,
		SealedFrom: []SealedFrom{{Host: "host-b", Generation: Generation{Epoch: 3, Number: 9}}},
	}
}

// someRef is a place in the store that differs with n.
func someRef(n byte) *pack.Ref {
	ref := pack.Ref{Off: uint32(n) << 12, Len: 4000 + uint32(n)}
	for i := range ref.Hash {
		ref.Hash[i] = n + byte(i)
	}
	for i := range ref.Pack.Content {
		ref.Pack.Content[i], ref.Pack.Nonce[i] = 0xc0+n, 0xd0+n
	}
	return &ref
}

func sampleObjects(t tb) map[string]*Object {
	t.Helper()
	data, err := EncodeData([]Range{{Off: 4096, Len: 8, Data: []byte("01234567")}, {Off: 1 << 20, Len: 1 << 29}})
	check(t, err)
	bulk, err := EncodeData([]Range{
		{Off: 4096, Len: 8, Data: []byte("01234567")}, {Off: 1 << 17, Len: 1 << 17, Block: someRef(1)},
		{Off: 1 << 18, Len: 1 << 17, Block: someRef(2)}, {Off: 1 << 20, Len: 1 << 29},
	})
	check(t, err)
	mark := Mark{0: 0xaa, 15: 0xbb}
	tiny := someState(0)
	tiny.Tenant, tiny.Name, tiny.Owner.ID, tiny.Root, tiny.Time = "default", "disk", "h", blockmap.Root{}, someDay
	grave := fullState()
	grave.RenamedTo, grave.Cause = "new-db", CauseRename
	seal := fullState()
	seal.SealedBy, seal.Cause = "host-c", CauseSeal
	next := fullState()
	next.After, next.Cause = Generation{Epoch: 4, Number: 20}, CauseTakeover
	all := map[string]*Object{
		"first":     {Generation: Generation{Epoch: 1, Number: 1}, Kind: First, Mark: mark, State: tiny},
		"commit":    {Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, Mark: mark, Ahead: 2, State: fullState(), Data: data},
		"bulk":      {Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, Mark: mark, Ahead: 2, State: fullState(), Data: bulk},
		"seal":      {Generation: Generation{Epoch: 4, Number: 4}, Kind: Seal, Mark: mark, State: seal},
		"ahead":     {Generation: Generation{Epoch: 4, Number: 20}, Kind: Seal, Mark: mark, Ahead: 15, State: State{Identity: seal.Identity}},
		"next":      {Generation: Generation{Epoch: 5, Number: 1}, Kind: First, Mark: mark, State: next},
		"release":   {Generation: Generation{Epoch: 4, Number: 4}, Kind: Seal, Released: true, Mark: mark, State: fullState()},
		"tombstone": {Generation: Generation{Epoch: 5, Number: 1}, Kind: First, Tombstone: true, Mark: mark, State: State{Identity: grave.Identity}},
		"stub":      (&Object{Generation: Generation{Epoch: 4, Number: 4}, Kind: Seal, Mark: mark, State: seal}).Stub(),
	}
	kept := tiny.Clone()
	kept.Keep = "24h:1h,30d:1d"
	kept.Snapshots = []Snapshot{{Name: "week", Root: someRoot(2), Size: kept.Size, Seq: 9, Generation: Generation{Epoch: 1, Number: 2}, CreatedAt: someDay, ExpiresAt: someDay.AddDate(0, 0, 7)}}
	all["keep"] = &Object{Generation: Generation{Epoch: 1, Number: 3}, Kind: Commit, Mark: mark, State: kept}
	maps.Copy(all, domainObjects(t))
	return all
}

func TestGolden(t *testing.T) {
	for name, o := range sampleObjects(t) {
		raw, err := o.Encode()
		check(t, err)
		var dump bytes.Buffer
		check(t, Dump(&dump, raw))
		golden(t, name+".txt", dump.String())
		golden(t, name+".hex", hexLines(raw))
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		check(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func hexLines(b []byte) string {
	var s strings.Builder
	for line := range slices.Chunk(b, 32) {
		s.WriteString(hex.EncodeToString(line) + "\n")
	}
	return s.String()
}

func TestObjectRoundTrip(t *testing.T) {
	for name, o := range sampleObjects(t) {
		raw, err := o.Encode()
		check(t, err)
		back, err := Decode(raw)
		check(t, err)
		if back.Hash == (ObjectHash{}) {
			t.Errorf("%s: it has no hash", name)
		}
		if back.Size != len(raw) {
			t.Errorf("%s: it has %d bytes, and says %d", name, len(raw), back.Size)
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

func TestDecodeRefuses(t *testing.T) {
	raw, err := sampleObjects(t)["commit"].Encode()
	check(t, err)
	edit := func(at int, b ...byte) []byte {
		c := bytes.Clone(raw)
		copy(c[at:], b)
		binary.LittleEndian.PutUint32(c[frame.CRCAt:], frame.Checksum(c))
		return c
	}
	flipped := bytes.Clone(raw)
	flipped[len(raw)-1] ^= 1
	for name, c := range map[string]struct {
		raw  []byte
		kind errs.Kind
	}{
		"nothing":       {nil, errs.Corrupt},
		"other magic":   {edit(0, 'X'), errs.Corrupt},
		"version 0":     {edit(4, 0), errs.Corrupt},
		"newer version": {edit(4, 7), errs.Unsupported},
		"version 6":     {edit(4, 6), errs.Corrupt},     // which has its domain before the state
		"version 5":     {edit(4, 5), errs.Unavailable}, // which is sealed
		"version 4":     {edit(4, 4), errs.Corrupt},     // which only objects with domains have
		"version 3":     {edit(4, 3), errs.Corrupt},     // which only data with blocks has
		"version 2":     {edit(4, 2), errs.Corrupt},     // which only seals ahead have
		"kind 0":        {edit(6, 0), errs.Corrupt},
		"kind 5":        {edit(6, 5), errs.Corrupt},
		"first at 3":    {edit(6, 1), errs.Corrupt},
		"other flag":    {edit(7, 4), errs.Corrupt},
		"released":      {edit(7, 1), errs.Corrupt},
		"tombstone":     {edit(7, 2), errs.Corrupt},
		"epoch 0":       {edit(8, 0), errs.Corrupt},
		"far ahead":     {edit(40, 3), errs.Corrupt},
		"long state":    {edit(46, 0x11), errs.Corrupt},
		"long data":     {edit(51, 0x7f), errs.Corrupt},
		"short":         {raw[:len(raw)-1], errs.Corrupt},
		"flipped":       {flipped, errs.Corrupt},
		"data in seal":  {edit(6, 3), errs.Corrupt},
		"not JSON":      {edit(frame.HeaderSize, '!'), errs.Corrupt},
	} {
		o, err := Decode(c.raw)
		if o != nil {
			t.Errorf("%s: accepted", name)
		}
		t.Run(name, func(t *testing.T) { wantKind(t, err, c.kind) })
	}
}

// A root that is missing must not read as a volume that is all holes, and what a
// later release adds must not stop this one.
func TestStateJSON(t *testing.T) {
	s := fullState()
	text, err := json.Marshal(&s)
	check(t, err)
	var fields map[string]any
	check(t, json.Unmarshal(text, &fields))
	fields["added_later"] = 1
	text, err = json.Marshal(fields)
	check(t, err)
	back, err := decodeState(text, false)
	check(t, err)
	if !reflect.DeepEqual(back, s) {
		t.Errorf("came back as %+v", back)
	}
	delete(fields, "root")
	text, err = json.Marshal(fields)
	check(t, err)
	_, err = decodeState(text, false)
	wantKind(t, err, errs.Corrupt)
}

func TestEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*State){
		"no ID":             func(s *State) { s.ID = VolumeID{} },
		"bad name":          func(s *State) { s.Name = "a/b" },
		"no tenant":         func(s *State) { s.Tenant = "" },
		"no owner":          func(s *State) { s.Owner.ID = "" },
		"no cause":          func(s *State) { s.Cause = "" },
		"long address":      func(s *State) { s.Owner.Addresses = []string{strings.Repeat("x", MaxText+1)} },
		"size 0":            func(s *State) { s.Size = 0 },
		"odd size":          func(s *State) { s.Size++ },
		"huge":              func(s *State) { s.Size = 1 << 63 },
		"block size 3":      func(s *State) { s.BlockSize = 3 << 12 },
		"block size 0":      func(s *State) { s.BlockSize = 0 },
		"small blocks":      func(s *State) { s.BlockSize = 2048 },
		"durability":        func(s *State) { s.Durability = "perhaps" },
		"negative rpo":      func(s *State) { s.RPOMillis = -1 },
		"high root":         func(s *State) { s.Root.Height++ },
		"low root":          func(s *State) { s.Size = 1 << 40 },
		"bad digest":        func(s *State) { s.ImportDigest = "\xff" },
		"bad parent":        func(s *State) { s.Parent.Name = "" },
		"bad label":         func(s *State) { s.Labels["a b"] = "" },
		"label not UTF-8":   func(s *State) { s.Labels["a"] = "\xff" },
		"bad snapshot":      func(s *State) { s.Snapshots[0].Name = "a@b" },
		"snapshot's root":   func(s *State) { s.Snapshots[1].Size = 512 },
		"bad data commit":   func(s *State) { s.DataCommits[0].Epoch = 0 },
		"bad former owner":  func(s *State) { s.SealedFrom[0].Host = "" },
		"many snapshots":    func(s *State) { s.Snapshots = make([]Snapshot, MaxSnapshots+1) },
		"many data commits": func(s *State) { s.DataCommits = slices.Repeat(s.DataCommits, maxDataCommits+1) },
		"many owners":       func(s *State) { s.SealedFrom = make([]SealedFrom, maxSealedFrom+1) },
		"renamed to":        func(s *State) { s.RenamedTo = "/" },
		"renamed from":      func(s *State) { s.RenamedFrom = "/" },
		"sealed by":         func(s *State) { s.SealedBy = "/" },
		"endless rpo":       func(s *State) { s.RPOMillis = 1 << 62 },
		"last write":        func(s *State) { s.Seq = 1<<64 - 1 },
		"last data write":   func(s *State) { s.DataSeq = 1<<64 - 1 },
		"stored bytes":      func(s *State) { s.StoredBytes = 1 << 63 },
		"limits":            func(s *State) { s.Limits.DirtyBudget = 1 << 63 },
		"snapshot of 0":     func(s *State) { s.Snapshots[0].Size = 0 },
		"snapshot's write":  func(s *State) { s.Snapshots[0].Seq = 1 << 63 },
		"endless run":       func(s *State) { s.DataCommits[0].Last = 1 << 33 },
		"after itself":      func(s *State) { s.After = Generation{Epoch: 3, Number: 9} },
	} {
		s := fullState()
		change(&s)
		_, err := (&Object{Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, State: s}).Encode()
		t.Run(name, func(t *testing.T) { wantKind(t, err, errs.Invalid) })
	}
	full := fullState()
	full.DataCommits = slices.Repeat(full.DataCommits, maxDataCommits)
	_, err := (&Object{Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, State: full, Data: []byte{1}}).Encode()
	wantKind(t, err, errs.Invalid) // a seal after it could not name it
}

// TestLargestState fills every list to its bound with the longest entries: what
// passes the checks must fit in an object.
func TestLargestState(t *testing.T) {
	s := fullState()
	long := strings.Repeat("n", 100)
	text := strings.Repeat("\x01", MaxText) // six bytes each in JSON
	most := Generation{Epoch: 1<<64 - 2, Number: maxNumber}
	root := blockmap.Root{Height: blockmap.MaxHeight, Ref: pack.Ref{Pack: pack.ID{Domain: 1}, Off: 1<<32 - 1, Len: 1}}
	s.Size, s.BlockSize, s.Root, s.ImportDigest, s.Keep = maxSize, minBlockSize, root, text, text
	s.Owner.ID, s.Name, s.Tenant = long, long, long
	s.Owner.Addresses = slices.Repeat([]string{text}, maxAddresses)
	s.Labels = map[string]string{}
	for i := range MaxLabels {
		s.Labels[fmt.Sprintf("%s%02d", long[2:], i)] = text
	}
	s.Snapshots = slices.Repeat([]Snapshot{{long, root, maxSize, maxCount, most, someDay, someDay}}, MaxSnapshots)
	s.DataCommits = slices.Repeat([]DataRun{{long, most.Epoch, most.Number, most.Number, ObjectHash{}, 1, MaxData}}, maxDataCommits)
	s.SealedFrom = slices.Repeat([]SealedFrom{{long, most}}, maxSealedFrom)
	raw, err := (&Object{Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, State: s}).Encode()
	check(t, err)
	t.Logf("%d bytes of %d", len(raw), frame.MaxState)
	_, err = Decode(raw)
	check(t, err)
}

func FuzzDecode(f *testing.F) {
	for _, o := range sampleObjects(f) {
		raw, err := o.Encode()
		check(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if raw = bytes.Clone(raw); len(raw) >= frame.HeaderSize { // let the fuzzer past the checksum
			binary.LittleEndian.PutUint32(raw[frame.CRCAt:], frame.Checksum(raw))
		}
		var o *Object
		var err error
		// JSON into maps and strings; a level of it costs the parser more than its byte.
		fuzztest.Bound(t, len(raw), 0, 64, func() { o, err = Decode(raw) })
		if err != nil {
			return
		}
		again, err := o.Encode()
		check(t, err) // what can be read can be written
		if _, err := Decode(again); err != nil {
			t.Errorf("it can be read once only: %v", err)
		}
		_ = Dump(&bytes.Buffer{}, raw)
	})
}

// TestOlderReleasesRefuseBlocks: an object whose data names blocks has a version that
// releases without them do not read, and no other object has it.
func TestOlderReleasesRefuseBlocks(t *testing.T) {
	for name, o := range sampleObjects(t) {
		raw, err := o.Encode()
		check(t, err)
		want := uint16(1)
		switch name {
		case "bulk":
			want = 3
		case "domain-data", "domain-root", "domain-snapshot", "domain-seal":
			want = 4
		case "ahead":
			want = 2
		}
		if v := binary.LittleEndian.Uint16(raw[4:]); v != want {
			t.Errorf("%s has version %d, want %d", name, v, want)
		}
		for v := range uint16(7) {
			binary.LittleEndian.PutUint16(raw[4:], v)
			binary.LittleEndian.PutUint32(raw[frame.CRCAt:], frame.Checksum(raw))
			if _, err := Decode(raw); v != want && err == nil {
				t.Errorf("%s was read as version %d", name, v)
			}
		}
	}
}

// TestBlocksCountWhole: what a data commit counts for is what its blocks hold.
func TestBlocksCountWhole(t *testing.T) {
	o := sampleObjects(t)["bulk"]
	runs := o.Carry().DataCommits
	if got, want := runs[len(runs)-1].Bytes, uint64(99+8+4*16+8+2*64+2<<17); got != want {
		t.Errorf("%d bytes are carried on, want %d", got, want)
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestFork(t *testing.T) {
	parent := fullState()
	child := parent.Fork("child", volumeID(9), Generation{Epoch: 4, Number: 3}, someDay)
	want := State{
		Identity: Identity{ID: volumeID(9), Tenant: "acme", Name: "child", Cause: CauseFork},
		Size:     parent.Size, BlockSize: parent.BlockSize, Durability: "local", CreatedAt: someDay,
		Parent: &Parent{Name: "db", ID: volumeID(7), Generation: Generation{Epoch: 4, Number: 3}, Root: parent.Root.Ref.Hash.String()},
		Root:   parent.Root, Seq: parent.Seq, DataCommits: parent.DataCommits, DataSeq: parent.DataSeq,
		BlocksMapped: parent.BlocksMapped, StoredBytes: parent.StoredBytes,
	}
	if !reflect.DeepEqual(child, want) {
		t.Errorf("the fork is %+v, want %+v", child, want)
	}
}
