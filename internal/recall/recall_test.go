package recall

import (
	"fmt"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/objstore"
)

// TestReplaced: an object that was replaced is not recalled, even by one of the same size in
// the same second, nor one that was put back.
func TestReplaced(t *testing.T) {
	second := time.Unix(1_700_000_000, 0)
	store := objstore.NewMem(objstore.Clock{Now: func() time.Time { return second }})
	m := New[string](1 << 20)
	put := func(text string) objstore.Info {
		t.Helper()
		if err := store.Put(t.Context(), "k", []byte(text)); err != nil {
			t.Fatal(err)
		}
		in, err := store.Head(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	for _, text := range []string{"commit", "a stub", "commit"} {
		in := put(text)
		if got, ok := m.Recall(in); ok {
			t.Errorf("%q is recalled for %q", got, text)
		}
		m.Remember(in, text, 6)
		if got, ok := m.Recall(in); !ok || got != text {
			t.Errorf("%q, %v are recalled for %q", got, ok, text)
		}
	}
	in := put("nobody")
	in.Version = ""
	m.Remember(in, "nobody", 6)
	if got, ok := m.Recall(in); ok {
		t.Errorf("%q is recalled of a store without versions", got)
	}
}

// TestMost: a memory stays as large as it may be, keeps what it has, and lets go of what
// nobody asks for.
func TestMost(t *testing.T) {
	m := New[int](10_000)
	in := func(i int) objstore.Info { return objstore.Info{Key: fmt.Sprintf("key-%03d", i), Version: "1"} }
	fill := func(from int) {
		for i := from; i < from+100; i++ {
			if _, ok := m.Recall(in(i)); !ok {
				m.Remember(in(i), i, 8)
			}
		}
	}
	known := func(from int) (n int) {
		for i := from; i < from+100; i++ {
			if says, ok := m.Recall(in(i)); ok && says == i {
				n++
			}
		}
		return n
	}
	fill(0)
	n := known(0)
	if n < 30 || n > 60 || m.bytes > m.most {
		t.Fatalf("%d of 100 are known, in %d bytes", n, m.bytes)
	}
	m.Turn()
	fill(0)
	m.Turn()
	if got := known(0); got != n {
		t.Errorf("%d are known after another turn, %d before", got, n)
	}
	m.Turn()
	fill(100) // the others are gone
	m.Turn()
	fill(100)
	if known(0) != 0 || known(100) != n {
		t.Errorf("%d old ones are known, %d new ones of %d", known(0), known(100), n)
	}
	m.Forget()
	if known(100) != 0 || m.bytes != 0 {
		t.Error("something was not forgotten")
	}
	var none *Memory[int]
	none.Remember(in(1), 1, 8)
	none.Turn()
	none.Forget()
	if _, ok := none.Recall(in(1)); ok {
		t.Error("no memory recalls something")
	}
}
