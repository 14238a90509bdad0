// Package objstoretest is the one suite of tests that every objstore.Store must
// pass, drivers and wrappers alike.
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Conformance tests what Store promises. open returns an empty store, each
// time another one.
func Conformance(t *testing.T, open func(t *testing.T) objstore.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s objstore.Store)
	}{
		{"absent", testAbsent},
		{"put and get", testPutGet},
		{"put replaces", testReplace},
		{"put if absent", testPutIfAbsent},
		{"create race", testCreateRace},
		{"get range", testGetRange},
		{"head", testHead},
		{"version", testVersion},
		{"list", testList},
		{"list at random", testListRandom},
		{"list pages", testListPages},
		{"delete", testDelete},
		{"delete batch", testDeleteBatch},
		{"no torn reads", testTorn},
		{"own bytes", testOwnBytes},
		{"odd keys", testOddKeys},
		{"bad keys", testBadKeys},
		{"bad sizes", testBadSizes},
		{"ended context", testContext},
		{"probe", testProbe},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(t *testing.T, s objstore.Store, key string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, data); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, s objstore.Store, key string, data []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("%s has %d bytes (%.20q…), want %d (%.20q…)", key, len(got), got, len(data), data)
	}
}

func wantKind(t *testing.T, kind errs.Kind, err error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("the error is %v (kind %s), want kind %s", err, errs.KindOf(err), kind)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Fatalf("the message has several lines: %q", err)
	}
}

func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(data)
	return data
}

func keysOf(infos []objstore.Info) []string {
	keys := make([]string, len(infos))
	for i, in := range infos {
		keys[i] = in.Key
	}
	return keys
}

func testAbsent(t *testing.T, s objstore.Store) {
	ctx := t.Context()
	_, err := s.Get(ctx, "a/b")
	wantKind(t, errs.NotFound, err)
	_, err = s.GetRange(ctx, "a/b", 0, 1)
	wantKind(t, errs.NotFound, err)
	_, err = s.Head(ctx, "a/b")
	wantKind(t, errs.NotFound, err)
	if !strings.Contains(err.Error(), "a/b") {
		t.Fatalf("the message does not name the key: %v", err)
	}
	if infos, err := s.List(ctx, "a/", "", 0); err != nil || len(infos) != 0 {
		t.Fatalf("list of nothing: %v, %v", infos, err)
	}
	if err := s.Delete(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
}

func testPutGet(t *testing.T, s objstore.Store) {
	for i, size := range []int{0, 1, 100, 4096, 128<<10 + 1, 3277400, 6 << 20} {
		key, data := fmt.Sprintf("dir/%d/object", i), random(uint64(i), size)
		put(t, s, key, data)
		want(t, s, key, data)
	}
}

func testReplace(t *testing.T, s objstore.Store) {
	for i, size := range []int{1000, 10, 0, 70000} {
		put(t, s, "x", random(uint64(i), size))
		want(t, s, "x", random(uint64(i), size))
	}
}

func testPutIfAbsent(t *testing.T, s objstore.Store) {
	ctx := t.Context()
	if err := s.PutIfAbsent(ctx, "log/1", []byte("first")); err != nil {
		t.Fatal(err)
	}
	wantKind(t, errs.Exists, s.PutIfAbsent(ctx, "log/1", []byte("second")))
	wantKind(t, errs.Exists, s.PutIfAbsent(ctx, "log/1", []byte("first")))
	want(t, s, "log/1", []byte("first"))
	if err := s.Delete(ctx, "log/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutIfAbsent(ctx, "log/1", []byte("third")); err != nil {
		t.Fatal(err)
	}
	put(t, s, "log/2", []byte("put"))
	wantKind(t, errs.Exists, s.PutIfAbsent(ctx, "log/2", nil))
	want(t, s, "log/2", []byte("put"))
}

func testCreateRace(t *testing.T, s objstore.Store) {
	const rounds, racers = 10, 8
	for round := range rounds {
		key := fmt.Sprintf("race/%d", round)
		data := func(i int) []byte { return random(uint64(i), 1000+i) }
		var winners atomic.Int32
		var winner atomic.Int32
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				err := s.PutIfAbsent(t.Context(), key, data(i))
				for errors.Is(err, errs.Unavailable) { // a rival is under way
					err = s.PutIfAbsent(t.Context(), key, data(i))
				}
				if err == nil {
					winners.Add(1)
					winner.Store(int32(i))
				} else if !errors.Is(err, errs.Exists) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if winners.Load() != 1 {
			t.Fatalf("%d of %d creates won", winners.Load(), racers)
		}
		want(t, s, key, data(int(winner.Load())))
	}
}

func testGetRange(t *testing.T, s objstore.Store) {
	ctx := t.Context()
	data := random(1, 100_000)
	put(t, s, "pack", data)
	for _, r := range [][2]int64{{0, 1}, {0, 100_000}, {99_999, 1}, {16, 4096}, {50_000, 50_000}} {
		got, err := s.GetRange(ctx, "pack", r[0], r[1])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
			t.Fatalf("range %v has wrong bytes", r)
		}
	}
	for _, r := range [][2]int64{{0, 100_001}, {99_999, 2}, {100_000, 1}, {1 << 20, 10}} {
		_, err := s.GetRange(ctx, "pack", r[0], r[1])
		wantKind(t, errs.Corrupt, err)
	}
	for _, r := range [][2]int64{{0, 0}, {-1, 5}, {5, -1}, {0, objstore.MaxObject + 1}, {1 << 62, 1 << 62}} {
		_, err := s.GetRange(ctx, "pack", r[0], r[1])
		wantKind(t, errs.Invalid, err)
	}
	put(t, s, "empty", nil)
	_, err := s.GetRange(ctx, "empty", 0, 1)
	wantKind(t, errs.Corrupt, err)
}

func testHead(t *testing.T, s objstore.Store) {
	put(t, s, "a/b", random(1, 12345))
	info, err := s.Head(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != "a/b" || info.Size != 12345 {
		t.Fatalf("head: %+v", info)
	}
	if age := time.Since(info.Modified).Abs(); age > time.Hour {
		t.Fatalf("modified %s from now", age)
	}
	listed, err := s.List(t.Context(), "a/b", "", 0)
	if err != nil || len(listed) != 1 {
		t.Fatalf("list: %v, %v", listed, err)
	}
	if l := listed[0]; l.Key != info.Key || l.Size != info.Size || l.Modified.Sub(info.Modified).Abs() > time.Second {
		t.Fatalf("list says %+v, head %+v", l, info)
	}
	_, err = s.Head(t.Context(), "a")
	wantKind(t, errs.NotFound, err)
}

// testVersion: an object that is replaced has another version, even if its size and the time
// are the same; until then it has one.
func testVersion(t *testing.T, s objstore.Store) {
	versions := map[string]bool{}
	for i := range 4 {
		put(t, s, "a/b", random(uint64(i), 100))
		info, err := s.Head(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		if info.Version == "" || versions[info.Version] {
			t.Fatalf("other content has the version %q, too", info.Version)
		}
		versions[info.Version] = true
		listed, err := s.List(t.Context(), "a/b", "", 0)
		if err != nil || len(listed) != 1 || listed[0].Version != info.Version {
			t.Fatalf("list says %+v, %v, head %+v", listed, err, info)
		}
	}
}

// listed are keys whose order a tree walk gets wrong easily: '-' and '.' sort
// before '/', digits and letters after it.
var listed = []string{
	"packs/00/aa-1", "packs/00/ab-2", "packs/01/aa-3", "packs/ff/zz-4",
	"v-x/log/1", "v.x/log/1", "v/a-b/log/1", "v/a.b/log/1", "v/a/log/1", "v/a/log/2", "v/a0/log/1", "v/b/log/1",
	"v0/log/1", "zz",
}

func testList(t *testing.T, s objstore.Store) {
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(listed)) {
		put(t, s, listed[i], []byte(listed[i]))
	}
	for _, c := range []struct {
		prefix, after string
		max           int
	}{
		{"", "", 0}, {"", "", 3}, {"", "packs/01/aa-3", 2}, {"v", "", 0}, {"v/", "", 0}, {"v/a", "", 0}, {"v/a/", "", 0},
		{"v/a", "v/a.b/log/1", 0}, {"v/", "v/a", 0}, {"v/", "v/a/", 0}, {"v/", "v/a/log/15", 1}, {"v/", "zz", 0}, {"v/", "a", 1},
		{"packs/0", "packs/00/ab", 2}, {"packs/", "packs/00/ab-2", 1}, {"nothing/", "", 0}, {"zz", "", 0}, {"zz", "zz", 0},
		{"packs/00/aa-1", "", 0}, {"packs/00/aa-1/x", "", 0}, {"", "", 5000}, {"", "", -1},
	} {
		checkList(t, s, listed, c.prefix, c.after, c.max)
	}
}

func checkList(t *testing.T, s objstore.Store, keys []string, prefix, after string, limit int) {
	t.Helper()
	var want []string
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after {
			want = append(want, k)
		}
	}
	slices.Sort(want)
	if limit > 0 {
		want = want[:min(limit, len(want))]
	}
	got, err := s.List(t.Context(), prefix, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(keysOf(got), want) {
		t.Fatalf("list(%q, %q, %d)\n got %q\nwant %q", prefix, after, limit, keysOf(got), want)
	}
}

func testListRandom(t *testing.T, s objstore.Store) {
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"a", "b", "ab", "a-b", "a.b", "a0", "0", "z"}
	key := func() string {
		parts := make([]string, 1+r.IntN(3))
		for i := range parts {
			parts[i] = names[r.IntN(len(names))] + "-d"
		}
		parts[len(parts)-1] = strings.TrimSuffix(parts[len(parts)-1], "-d") // a name of an object is never one of a directory
		return strings.Join(parts, "/")
	}
	var keys []string
	for range 40 {
		keys = append(keys, key())
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for _, k := range keys {
		put(t, s, k, nil)
	}
	for range 150 {
		prefix, after := key(), ""
		prefix = prefix[:r.IntN(len(prefix)+1)]
		if r.IntN(2) == 0 {
			after = key()
			after = after[:1+r.IntN(len(after))]
		}
		checkList(t, s, keys, prefix, after, r.IntN(6))
	}
}

func testListPages(t *testing.T, s objstore.Store) {
	const objects, writers = 1003, 16
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < objects; i += writers {
				if err := s.Put(t.Context(), fmt.Sprintf("p/%d/%04d", i/100, i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if infos, err := s.List(t.Context(), "p/", "", 0); err != nil || len(infos) != 1000 {
		t.Fatalf("one list has %d objects, %v", len(infos), err)
	}
	var got []string
	collect := func(in objstore.Info) bool {
		got = append(got, in.Key)
		return true
	}
	if err := objstore.ListAll(t.Context(), s, "p/", "p/0/0004", collect); err != nil {
		t.Fatal(err)
	}
	if len(got) != objects-5 || !slices.IsSorted(got) {
		t.Fatalf("%d objects in all, sorted: %v", len(got), slices.IsSorted(got))
	}
	if err := s.DeleteBatch(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if infos, err := s.List(t.Context(), "", "", 0); err != nil || len(infos) != 5 {
		t.Fatalf("after the deletion there are %d, %v", len(infos), err)
	}
}

func testDelete(t *testing.T, s objstore.Store) {
	put(t, s, "d/a", []byte("a"))
	put(t, s, "d/b", []byte("b"))
	for range 2 {
		if err := s.Delete(t.Context(), "d/a"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Get(t.Context(), "d/a")
	wantKind(t, errs.NotFound, err)
	want(t, s, "d/b", []byte("b"))
	if err := s.Delete(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	want(t, s, "d/b", []byte("b"))
}

func testDeleteBatch(t *testing.T, s objstore.Store) {
	for _, k := range []string{"a/1", "a/2", "b/1", "keep"} {
		put(t, s, k, []byte(k))
	}
	if err := s.DeleteBatch(t.Context(), []string{"a/1", "absent", "b/1", "a/2", "c/absent"}); err != nil {
		t.Fatal(err)
	}
	checkList(t, s, []string{"keep"}, "", "", 0)
	if err := s.DeleteBatch(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// testTorn replaces an object while it is read: every read has one version.
func testTorn(t *testing.T, s objstore.Store) {
	const size = 200_000
	put(t, s, "x", make([]byte, size))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				data, err := s.Get(t.Context(), "x")
				if err != nil {
					t.Error(err)
					return
				}
				if len(data) != size || bytes.Count(data, data[:1]) != size {
					t.Errorf("a torn read: %d bytes", len(data))
					return
				}
			}
		})
	}
	for i := range 20 {
		put(t, s, "x", bytes.Repeat([]byte{byte(i)}, size))
	}
	stop.Store(true)
	wg.Wait()
}

// testOwnBytes checks that no slice is shared between the store and its user.
func testOwnBytes(t *testing.T, s objstore.Store) {
	data := []byte("as it was")
	put(t, s, "x", data)
	data[0] = '!'
	got, err := s.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = '!'
	got, err = s.GetRange(t.Context(), "x", 0, 9)
	if err != nil {
		t.Fatal(err)
	}
	got[2] = '!'
	want(t, s, "x", []byte("as it was"))
}

func testOddKeys(t *testing.T, s objstore.Store) {
	keys := []string{
		"a b/c+d=e&f", "percent%41%", "what?#really", "at@host:80", "ü/日本", "quote'\"<>&", "back\\slash", "~tilde!*()",
		"x/" + strings.Repeat("k", 255), "a;b", "a,b$c", "dots.are..fine.",
	}
	for _, k := range keys {
		put(t, s, k, []byte(k))
		want(t, s, k, []byte(k))
	}
	checkList(t, s, keys, "", "", 0)
	if err := s.DeleteBatch(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	checkList(t, s, nil, "", "", 0)
}

func testBadKeys(t *testing.T, s objstore.Store) {
	ctx := t.Context()
	for _, k := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", ".tmp/x", "a/.hidden", "a\x00b", "a\nb", "\xff",
		strings.Repeat("k", 256), strings.Repeat("k/", 512) + "k",
	} {
		_, err := s.Get(ctx, k)
		wantKind(t, errs.Invalid, err)
		_, err = s.GetRange(ctx, k, 0, 1)
		wantKind(t, errs.Invalid, err)
		_, err = s.Head(ctx, k)
		wantKind(t, errs.Invalid, err)
		wantKind(t, errs.Invalid, s.Put(ctx, k, nil))
		wantKind(t, errs.Invalid, s.PutIfAbsent(ctx, k, nil))
		wantKind(t, errs.Invalid, s.Delete(ctx, k))
		wantKind(t, errs.Invalid, s.DeleteBatch(ctx, []string{k}))
	}
	for _, p := range []string{"/", "/a", "a//", "..", "../a", "a/../", "a/.", ".tmp/", "\x00"} {
		_, err := s.List(ctx, p, "", 0)
		wantKind(t, errs.Invalid, err)
	}
}

func testBadSizes(t *testing.T, s objstore.Store) {
	tooBig := make([]byte, objstore.MaxObject+1)
	wantKind(t, errs.Invalid, s.Put(t.Context(), "x", tooBig))
	wantKind(t, errs.Invalid, s.PutIfAbsent(t.Context(), "x", tooBig))
	_, err := s.Head(t.Context(), "x")
	wantKind(t, errs.NotFound, err)
}

func testContext(t *testing.T, s objstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	checkEnded(t, ctx, s, context.Canceled)
	ctx, cancel = context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	checkEnded(t, ctx, s, context.DeadlineExceeded)
	checkList(t, s, nil, "", "", 0)
}

func checkEnded(t *testing.T, ctx context.Context, s objstore.Store, cause error) {
	t.Helper()
	_, err1 := s.Get(ctx, "x")
	_, err2 := s.GetRange(ctx, "x", 0, 1)
	_, err3 := s.Head(ctx, "x")
	_, err4 := s.List(ctx, "x", "", 0)
	for i, err := range []error{
		err1, err2, err3, err4, s.Put(ctx, "x", nil), s.PutIfAbsent(ctx, "x", nil), s.Delete(ctx, "x"),
		s.DeleteBatch(ctx, []string{"x"}),
	} {
		if !errors.Is(err, cause) {
			t.Fatalf("request %d returned %v, want %v", i, err, cause)
		}
	}
}

func testProbe(t *testing.T, s objstore.Store) {
	if err := objstore.Probe(t.Context(), s, "one"); err != nil {
		t.Fatal(err)
	}
	if err := objstore.ProbeRace(t.Context(), s, "two"); err != nil {
		t.Fatal(err)
	}
	checkList(t, s, nil, "", "", 0)
}
