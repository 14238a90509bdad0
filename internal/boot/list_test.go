package boot

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

func TestList(t *testing.T) {
	l := &list{Blocks: []uint64{7, 0, 1 << 40}, Used: 2}
	got, err := decode(l.encode())
	if err != nil || !slices.Equal(got.Blocks, l.Blocks) || got.Used != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	full := &list{}
	for i := range uint64(maxBlocks) {
		full.Blocks = append(full.Blocks, i*3)
	}
	if b := full.encode(); len(b) != maxList {
		t.Errorf("a full list has %d bytes, not %d", len(b), maxList)
	} else if got, err := decode(b); err != nil || len(got.Blocks) != maxBlocks {
		t.Errorf("a full list: %v", err)
	}
	var text bytes.Buffer
	if err := Dump(&text, l.encode()); err != nil || !strings.Contains(text.String(), "3 blocks, of which the last boot read 2\n[7 0 1099511627776]") {
		t.Errorf("%q, %v", &text, err)
	}
}

// TestListRefused changes each bit of a list, its length, and what it says.
func TestListRefused(t *testing.T) {
	good := (&list{Blocks: []uint64{3, 5, 8}, Used: 3}).encode()
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decode(bad); err == nil {
			t.Errorf("a list with bit %d flipped is taken", i)
		}
	}
	for n := range len(good) {
		if _, err := decode(good[:n]); err == nil {
			t.Errorf("the first %d bytes of a list are taken", n)
		}
	}
	if _, err := decode(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a list with a byte behind it is taken")
	}
	newer := bytes.Clone(good)
	newer[4] = 2
	if _, err := decode(newer); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("a newer version: %v", err)
	}
	sealed := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		binary.LittleEndian.PutUint32(b[16:], listSum(b))
		return b
	}
	for what, b := range map[string][]byte{
		"a block twice":          sealed(func(b []byte) { copy(b[28:], b[20:28]) }),
		"an absurd length":       sealed(func(b []byte) { b[11] = 0xff }),
		"more used than blocks":  sealed(func(b []byte) { b[12] = 4 }),
		"fewer blocks than said": sealed(func(b []byte) { b[8] = 4 }),
	} {
		if _, err := decode(b); errs.KindOf(err) != errs.Corrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add((&list{Blocks: []uint64{3, 5, 8}, Used: 3}).encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := decode(raw)
		if err == nil && !bytes.Equal(l.encode(), raw) {
			t.Error("a list is not what its bytes say")
		}
	})
}

func TestLearn(t *testing.T) {
	run := func(from, to uint64) (out []uint64) {
		for i := from; i < to; i++ {
			out = append(out, i)
		}
		return out
	}
	for _, c := range []struct {
		what       string
		old, read  []uint64
		want       []uint64
		used       int
		other, far bool
	}{
		{"the first boot", nil, run(0, 10), run(0, 10), 10, true, true},
		{"the same boot", run(0, 100), run(0, 100), run(0, 100), 100, false, false},
		{"in another order", run(0, 4), []uint64{3, 2, 1, 0}, []uint64{3, 2, 1, 0}, 4, false, false},
		{"one block fewer", run(0, 100), run(0, 99), run(0, 99), 99, true, false},
		{"another part", run(0, 100), run(50, 150), run(50, 150), 100, true, true},
		{"only a look", run(0, 100), run(0, 3), run(0, 100), 3, false, false},
		{"a look elsewhere", run(0, 4), run(9, 10), append(run(9, 10), run(0, 4)...), 1, true, true},
	} {
		got, other, far := (&list{Blocks: c.old}).learn(c.read)
		if !slices.Equal(got.Blocks, c.want) || got.Used != c.used || other != c.other || far != c.far {
			t.Errorf("%s: %v, %d used, %v, %v", c.what, got.Blocks, got.Used, other, far)
		}
	}
	// The list never outgrows its bound, whatever comes.
	l := &list{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		read := run(0, 1+r.Uint64N(maxBlocks))
		for i := range read {
			read[i] += r.Uint64N(2) * maxBlocks
		}
		l, _, _ = l.learn(read)
		if _, err := decode(l.encode()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIsKey(t *testing.T) {
	root := strings.Repeat("0a", 32)
	if !IsKey(keyOf("acme", root)) {
		t.Error("the key of a list is none")
	}
	for _, key := range []string{"t/acme/boot/", "t/acme/boot/" + root[1:], "t/acme/boot/" + root + "/1", "t/acme/volumes/boot/log/1/2", "packs/" + root} {
		if IsKey(key) {
			t.Errorf("%q is taken for the key of a list", key)
		}
	}
}

// TestImagesOfDomains: volumes of two domains of a tenant have no list in common, and each has
// its list where its collector looks.
func TestImagesOfDomains(t *testing.T) {
	root := strings.Repeat("ab", 32)
	for isolated, want := range map[uint32]string{0: "t/acme/boot/" + root, 0x5f: "t/acme+0000005f/boot/" + root} {
		im, ok := imageOf(&volume.State{Tenant: "acme", Isolated: isolated, Parent: &volume.Parent{Root: root}})
		if key := keyOf(im.domain, im.root); !ok || key != want || !IsKey(key) {
			t.Errorf("isolated in %08x: %s, want %s", isolated, key, want)
		}
	}
}
