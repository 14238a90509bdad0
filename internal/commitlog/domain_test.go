package commitlog

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/pack"
)

// domainRef is someRef in a domain.
func domainRef(n byte, domain uint32) *pack.Ref {
	ref := someRef(n)
	ref.Pack.Domain = domain
	return ref
}

// domainRoot is someRoot in a domain.
func domainRoot(n uint64, domain uint32) blockmap.Root {
	root := someRoot(n)
	root.Ref.Pack.Domain = domain
	return root
}

// domainRanges name packs of three domains, one of them 0.
func domainRanges() []Range {
	return []Range{
		{Off: 4096, Len: 8, Data: []byte("01234567")}, {Off: 1 << 17, Len: 1 << 17, Block: domainRef(1, 0x01020304)},
		{Off: 1 << 18, Len: 1 << 17, Block: someRef(1)}, {Off: 3 << 17, Len: 1 << 17, Block: domainRef(2, 0x2a)}, {Off: 1 << 20, Len: 1 << 29},
	}
}

// domainObjects are objects that name packs of domains other than 0, and bare ones whose
// volume does.
func domainObjects(t tb) map[string]*Object {
	t.Helper()
	data, err := EncodeData(domainRanges())
	check(t, err)
	root, snapshot, seal := fullState(), fullState(), fullState()
	root.Root = domainRoot(1, 0x2a)
	snapshot.Snapshots[1].Root = domainRoot(2, 1<<32-1)
	seal.SealedBy, seal.Cause, seal.Root = "host-c", CauseSeal, root.Root
	mark := Mark{0: 0xaa, 15: 0xbb}
	return map[string]*Object{
		"domain-data":     {Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, Mark: mark, Ahead: 2, State: fullState(), Data: data},
		"domain-root":     {Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, Mark: mark, State: root},
		"domain-snapshot": {Generation: Generation{Epoch: 4, Number: 3}, Kind: Commit, Mark: mark, State: snapshot},
		"domain-seal":     {Generation: Generation{Epoch: 4, Number: 4}, Kind: Seal, Mark: mark, State: seal},
		"domain-stub":     (&Object{Generation: Generation{Epoch: 4, Number: 4}, Kind: Seal, Mark: mark, State: seal}).Stub(),
	}
}

// TestBareObjectsHaveNoDomains: what carries only an identity keeps its version, whatever
// the volume's root is.
func TestBareObjectsHaveNoDomains(t *testing.T) {
	s := domainObjects(t)["domain-root"].State
	s.RenamedTo, s.Cause = "new-db", CauseRename
	for v, o := range map[uint16]*Object{
		1: {Generation: Generation{Epoch: 5, Number: 1}, Kind: First, Tombstone: true, State: s},
		2: {Generation: Generation{Epoch: 4, Number: 20}, Kind: Seal, Ahead: 15, State: s},
	} {
		raw, err := o.Encode()
		check(t, err)
		if got := binary.LittleEndian.Uint16(raw[4:]); got != v {
			t.Errorf("version %d, want %d", got, v)
		}
		_, err = Decode(raw)
		check(t, err)
	}
}

// TestDomainsAreCarried: forks and seals keep the domains of roots, and a dump shows them.
func TestDomainsAreCarried(t *testing.T) {
	o := domainObjects(t)["domain-root"]
	if c := o.State.Fork("child", volumeID(9), Generation{Epoch: 4, Number: 3}, someDay); c.Root != o.State.Root {
		t.Errorf("the fork has %s, its parent %s", c.Root, o.State.Root)
	}
	for name, words := range map[string]string{
		"domain-root": "/0000002a.", "domain-snapshot": "/ffffffff.", "domain-data": " in d/01020304/packs/c1/",
	} {
		raw, err := domainObjects(t)[name].Encode()
		check(t, err)
		var dump bytes.Buffer
		check(t, Dump(&dump, raw))
		if !strings.Contains(dump.String(), words) || !strings.Contains(dump.String(), "version 4") {
			t.Errorf("%q is missing in\n%s", words, dump.String())
		}
	}
}
