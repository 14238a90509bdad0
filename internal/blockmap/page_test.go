package blockmap

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/pack"
)

var update = flag.Bool("update", false, "write the golden files anew")

// samples are pages of every shape, by name of their golden file.
func samples() map[string]Page {
	var one, some, full [Fanout]pack.Ref
	one[63] = blockRef(7)
	for _, slot := range []int{0, 3, 4, 40} {
		some[slot] = blockRef(uint64(100 - slot)) // three packs, not in the order of the slots
	}
	for slot := range full {
		full[slot] = scattered(uint64(slot))
	}
	mixed, fullDomains := some, full
	for _, slot := range []int{0, 3} { // slot 4 stays in domain 0, in a pack with the content and nonce of slot 3's
		mixed[slot].Pack.Domain = 0x01020304
	}
	mixed[10] = inDomain(blockRef(100), 0x2a)
	for slot := range fullDomains {
		fullDomains[slot].Pack.Domain = uint32(slot) << 26
	}
	return map[string]Page{
		"one": encodePage(8, &one), "some": encodePage(0, &some), "full": encodePage(1, &full),
		"domains": encodePage(0, &mixed), "full-domains": encodePage(1, &fullDomains),
	}
}

func TestGolden(t *testing.T) {
	for name, page := range samples() {
		var dump bytes.Buffer
		check(t, Dump(&dump, page))
		golden(t, name+".hex", hexLines(page))
		golden(t, name+".txt", dump.String())
	}
	if n := len(samples()["full-domains"]); n != MaxPageSize {
		t.Errorf("the largest page has %d bytes, MaxPageSize is %d", n, MaxPageSize)
	}
	if n := len(samples()["full"]); n != 4176 {
		t.Errorf("the largest page of domain 0 has %d bytes, not 4176", n)
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

func TestPageRoundTrip(t *testing.T) {
	for name, page := range samples() {
		p, err := parsePage(page)
		check(t, err)
		var refs [Fanout]pack.Ref
		p.unpack(&refs)
		if again := encodePage(p.Level(), &refs); !bytes.Equal(again, page) {
			t.Errorf("%s: it is encoded differently after decoding", name)
		}
		for slot := range refs {
			if p.Ref(slot) != refs[slot] {
				t.Errorf("%s: Ref(%d) and All differ", name, slot)
			}
		}
	}
}

func TestParsePageRefuses(t *testing.T) {
	const (
		firstEntry  = headerSize + 3*packSize       // of "some", which has 3 packs
		domainEntry = headerSize + 5*domainPackSize // of "domains"
	)
	edit := func(at int, b ...byte) func(Page) Page {
		return func(p Page) Page { copy(p[at:], b); return p }
	}
	type refusal struct {
		change func(Page) Page
		kind   errs.Kind
	}
	refuses := func(sample, name string, c refusal) {
		page, err := parsePage(c.change(bytes.Clone(samples()[sample])))
		if page != nil {
			t.Errorf("%s: accepted", name)
		}
		t.Run(name, func(t *testing.T) { wantKind(t, err, c.kind) })
	}
	for name, c := range map[string]refusal{
		"empty":                  {func(Page) Page { return nil }, errs.Corrupt},
		"header only":            {func(p Page) Page { return p[:headerSize] }, errs.Corrupt},
		"cut off":                {func(p Page) Page { return p[:len(p)-1] }, errs.Corrupt},
		"too long":               {func(p Page) Page { return append(p, 0) }, errs.Corrupt},
		"other magic":            {edit(0, 'X'), errs.Corrupt},
		"version 0":              {edit(2, 0), errs.Corrupt},
		"newer version":          {edit(2, 3), errs.Unsupported},
		"version of domains":     {edit(2, 2), errs.Corrupt},
		"level too great":        {edit(3, MaxHeight), errs.Corrupt},
		"no packs":               {edit(4, 0), errs.Corrupt},
		"more packs than slots":  {edit(4, 5), errs.Corrupt},
		"reserved bytes":         {edit(7, 1), errs.Corrupt},
		"no slots":               {edit(8, 0, 0, 0, 0, 0, 0, 0, 0), errs.Corrupt},
		"a slot more":            {edit(8, 0xff), errs.Corrupt},
		"packs out of order":     {edit(headerSize, 0xff, 0xff), errs.Corrupt},
		"pack index too great":   {edit(firstEntry+40, 3), errs.Corrupt},
		"entry of no length":     {edit(firstEntry+36, 0, 0, 0, 0), errs.Corrupt},
		"entry beyond 4 GiB":     {edit(firstEntry+32, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0), errs.Corrupt},
		"a pack that is unused":  {func(p Page) Page { return setPacks(p, firstEntry, 0) }, errs.Corrupt},
		"packs used by one only": {func(p Page) Page { return setPacks(p, firstEntry, 1) }, errs.Corrupt},
	} {
		refuses("some", name, c)
	}
	for name, c := range map[string]refusal{
		"domains: cut off":                 {func(p Page) Page { return p[:len(p)-1] }, errs.Corrupt},
		"domains: version of domain 0":     {edit(2, 1), errs.Corrupt},
		"domains: reserved bytes":          {edit(5, 1), errs.Corrupt},
		"domains: out of order":            {edit(headerSize, 0x2b), errs.Corrupt},
		"domains: one pack twice":          {func(p Page) Page { copy(p[headerSize+domainPackSize:], p[headerSize:][:domainPackSize]); return p }, errs.Corrupt},
		"domains: pack index too great":    {edit(domainEntry+40, 5), errs.Corrupt},
		"domains: a pack that is unused":   {func(p Page) Page { return setPacks(p, domainEntry, 0) }, errs.Corrupt},
		"domains: ordered by their bytes":  {byBytes, errs.Corrupt},
		"domains: only domain 0":           {func(Page) Page { return widened(samples()["some"]) }, errs.Corrupt},
		"domains: only domain 0, one pack": {func(Page) Page { return widened(samples()["one"]) }, errs.Corrupt},
	} {
		refuses("domains", name, c)
	}
}

// byBytes moves the pack of domain 0x2a behind those of 0x01020304, as if the bytes of the
// table decided.
func byBytes(p Page) Page {
	i, end := headerSize+2*domainPackSize, headerSize+5*domainPackSize
	return slices.Concat(p[:i], p[i+domainPackSize:end], p[i:i+domainPackSize], p[end:])
}

// widened is a page of domain 0 in the form of version 2.
func widened(p Page) Page {
	w := append(Page(nil), p[:headerSize]...)
	w[2] = version
	for i := range p.packs() {
		w = append(append(w, 0, 0, 0, 0), p[headerSize+packSize*i:][:packSize]...)
	}
	return append(w, p[p.entries():]...)
}

// TestDomainsAreTold: packs whose content and nonce are the same in two domains are two.
func TestDomainsAreTold(t *testing.T) {
	p := samples()["domains"]
	if a, b := p.Ref(3).Pack, p.Ref(4).Pack; a == b || a.Content != b.Content || a.Nonce != b.Nonce {
		t.Errorf("they are %s and %s", a, b)
	}
	var domains []uint32
	for i := range p.packs() {
		domains = append(domains, p.packID(i).Domain)
	}
	if want := []uint32{0, 0, 0x2a, 0x01020304, 0x01020304}; p[2] != version || !slices.Equal(domains, want) {
		t.Errorf("version %d, domains %x, want %x", p[2], domains, want)
	}
}

func setPacks(p Page, first int, pack byte) Page {
	for i := range p.Len() {
		p[first+i*entrySize+40] = pack
	}
	return p
}

func FuzzParsePage(f *testing.F) {
	for _, page := range samples() {
		f.Add([]byte(page))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Page
		var err error
		fuzztest.Bound(t, len(raw), 0, 1, func() { p, err = parsePage(raw) }) // it is searched in place
		if err != nil {
			return
		}
		var refs [Fanout]pack.Ref
		p.unpack(&refs)
		if again := encodePage(p.Level(), &refs); !bytes.Equal(again, raw) {
			t.Errorf("accepted, though it would not be written like that:\n%x\n%x", raw, again)
		}
		check(t, Dump(&bytes.Buffer{}, raw))
	})
}

func TestHeightFor(t *testing.T) {
	for blocks, want := range map[uint64]uint8{
		0: 0, 1: 1, 64: 1, 65: 2, 4096: 2, 4097: 3, 819200: 4, 1 << 27: 5, 1 << 30: 5, 1<<30 + 1: 6, maxBlocks: MaxHeight,
	} {
		if got := HeightFor(blocks); got != want {
			t.Errorf("HeightFor(%d) = %d, want %d", blocks, got, want)
		}
	}
}

func TestRootText(t *testing.T) {
	for _, r := range []Root{{}, {blockRef(5), 4}, {blockRef(1 << 40), MaxHeight}, {inDomain(blockRef(5), 1), 4}, {inDomain(blockRef(5), 1<<32-1), 4}} {
		text, err := json.Marshal(r)
		check(t, err)
		var back Root
		check(t, json.Unmarshal(text, &back))
		if back != r {
			t.Errorf("%s came back as %s", r, back)
		}
	}
	text := Root{blockRef(60), 4}.String()
	want := "4/d96ce12c0533168100000000000000000000000000000000000000000000003c/" +
		"3c6ef372fe94f82a00000000-000000000000000000000002/1310720+50060"
	if text != want {
		t.Errorf("text form %s, want %s", text, want)
	}
	for _, bad := range []string{
		"", "Hole", "hole ", "4/", "04" + text[1:], "0" + text[1:], "10" + text[1:], "+4" + text[1:], text + " ", text + "/",
		strings.ToUpper(text), strings.Replace(text, "-", "", 1), strings.Replace(text, "+50060", "+0", 1),
		strings.Replace(text, "1310720", "4294967295", 1), strings.Replace(text, "1310720", "01310720", 1), text[:30] + text[31:],
	} {
		_, err := parseRoot(bad)
		wantKind(t, err, errs.Corrupt)
	}
	domain := Root{inDomain(blockRef(60), 0x2a), 4}.String()
	if want := strings.Replace(text, "/3c6e", "/0000002a.3c6e", 1); domain != want {
		t.Errorf("text form %s, want %s", domain, want)
	}
	for _, bad := range []string{"/00000000.", "/2a.", "/0000002A.", "/+000002a.", "/10000002a.", "/0000002a.0000002a.", "/0000002a/", "/0000002a", "/."} {
		_, err := parseRoot(strings.Replace(domain, "/0000002a.", bad, 1))
		wantKind(t, err, errs.Corrupt)
	}
}

func FuzzParseRoot(f *testing.F) {
	f.Add("hole")
	f.Add(Root{blockRef(5), 4}.String())
	f.Add(Root{inDomain(blockRef(5), 0x2a), 4}.String())
	f.Fuzz(func(t *testing.T, text string) {
		var r Root
		var err error
		fuzztest.Bound(t, len(text), 0, 16, func() { r, err = parseRoot(text) })
		if err == nil && r.String() != text {
			t.Errorf("%q was read as %q", text, r)
		}
	})
}

func TestPageBytesAreLittleEndian(t *testing.T) {
	p := samples()["one"]
	if binary.LittleEndian.Uint64(p[8:]) != 1<<63 || p.Len() != 1 || p.Level() != 8 {
		t.Errorf("unexpected header %x", p[:headerSize])
	}
}
