package commitlog

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
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
		"domain-data":     {Generation: Generation{4, 3}, Kind: Commit, Mark: mark, Ahead: 2, State: fullState(), Data: data},
		"domain-root":     {Generation: Generation{4, 3}, Kind: Commit, Mark: mark, State: root},
		"domain-snapshot": {Generation: Generation{4, 3}, Kind: Commit, Mark: mark, State: snapshot},
		"domain-seal":     {Generation: Generation{4, 4}, Kind: Seal, Mark: mark, State: seal},
		"domain-stub":     (&Object{Generation: Generation{4, 4}, Kind: Seal, Mark: mark, State: seal}).Stub(),
	}
}

// TestBareObjectsHaveNoDomains: what carries only an identity keeps its version, whatever
// the volume's root is.
func TestBareObjectsHaveNoDomains(t *testing.T) {
	s := domainObjects(t)["domain-root"].State
	s.RenamedTo, s.Cause = "new-db", CauseRename
	for v, o := range map[uint16]*Object{
		1: {Generation: Generation{5, 1}, Kind: First, Tombstone: true, State: s},
		2: {Generation: Generation{4, 20}, Kind: Seal, Ahead: 15, State: s},
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

// TestDomainPlaces: the places of blocks have domains if and only if one is not 0.
func TestDomainPlaces(t *testing.T) {
	ranges := domainRanges()
	section, err := EncodeData(ranges)
	check(t, err)
	if section[0] != domainPlaces|encodingZstd || !hasDomains(section) {
		t.Errorf("the section begins with %x", section[:dataHeaderSize])
	}
	back, err := DecodeData(section)
	check(t, err)
	if !reflect.DeepEqual(back, ranges) {
		t.Errorf("%v came back as %v", ranges, back)
	}
	body := encodeBody(ranges, 1<<10)
	if want := bodyHeaderSize + len(ranges)*rangeSize + 8 + 3*pack.DomainRefLen; len(body) != want {
		t.Errorf("the body has %d bytes, want %d", len(body), want)
	}
	at := bodyHeaderSize + len(ranges)*rangeSize + 8 // the places
	if got := body[at : at+4]; !bytes.Equal(got, []byte{4, 3, 2, 1}) {
		t.Errorf("the first place begins with %x", got)
	}
	sealed := func(body []byte, n, place int) []byte {
		section, err := compress(body, n, place)
		check(t, err)
		return section
	}
	all0 := bytes.Clone(body)
	for i := range 3 {
		copy(all0[at+i*pack.DomainRefLen:], make([]byte, 4))
	}
	plain := encodeBody(manyBlocks(3), 1<<10)
	raw := append([]byte{domainPlaces, 3, 0, 0, byte(len(body)), byte(len(body) >> 8), 0, 0}, body...)
	_, err = DecodeData(raw) // not compressed
	check(t, err)
	for name, bad := range map[string][]byte{
		"all in domain 0":      sealed(all0, 3, pack.DomainRefLen),
		"no domains":           sealed(plain, 3, pack.DomainRefLen),
		"domains unannounced":  sealed(body, 3, pack.RefLen),
		"a place cut short":    sealed(body[:len(body)-1], 3, pack.DomainRefLen),
		"a place too many":     sealed(append(bytes.Clone(body), body[len(body)-pack.DomainRefLen:]...), 3, pack.DomainRefLen),
		"no blocks":            sealed(encodeBody([]Range{{Off: 0, Len: 9}}, 1<<10), 0, pack.DomainRefLen),
		"another bit":          append([]byte{4 | domainPlaces}, raw[1:]...),
		"domain without ID":    sealed(noPack(body, at), 3, pack.DomainRefLen),
		"header of fewer":      append([]byte{domainPlaces, 2}, raw[2:]...),
		"nothing but a header": {domainPlaces, 0, 0, 0, 0, 0, 0, 0},
	} {
		_, err := DecodeData(bad)
		t.Run(name, func(t *testing.T) { wantKind(t, err, errs.Corrupt) })
	}
	wantKind(t, errOf(EncodeData([]Range{{Off: 0, Len: 4096, Block: &pack.Ref{Len: 100, Pack: pack.ID{Domain: 1}}}})), errs.Invalid)
}

// noPack is the body with a place that has a domain, and no content or nonce.
func noPack(body []byte, at int) []byte {
	b := bytes.Clone(body)
	clear(b[at+4+32 : at+4+32+24])
	return b
}

// TestDomainsAreCarried: forks and seals keep the domains of roots, and a dump shows them.
func TestDomainsAreCarried(t *testing.T) {
	o := domainObjects(t)["domain-root"]
	if c := o.State.Fork("child", volumeID(9), Generation{4, 3}, someDay); c.Root != o.State.Root {
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
