package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/objstoretest"
)

// TestWrappersConform stacks all wrappers, and loses one request in seven and
// one answer in seven.
func TestWrappersConform(t *testing.T) {
	objstoretest.Conformance(t, func(*testing.T) objstore.Store {
		f := objstore.NewFaults(objstore.NewMem(objstore.Clock{}), 7)
		f.Inject(objstore.Fault{Rate: 1. / 7})
		f.Inject(objstore.Fault{Rate: 1.1 / 7, Effect: objstore.FailAfter})
		f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpGetRange}, Rate: 1.4 / 7, Effect: objstore.Truncate})
		s := objstoretest.Latency(f, objstoretest.LatencyOptions{Jitter: time.Microsecond, Rate: 10 << 30, Rand: objstore.SeededRand(1)})
		s = objstore.Retry(objstore.Count(s, &objstore.Counter{}), objstore.RetryOptions{MaxTries: 100, Backoff: time.Microsecond, MaxBackoff: time.Microsecond})
		return objstore.Prefix(s, "some/where")
	})
}

func TestCount(t *testing.T) {
	var total, one, inner objstore.Counter
	s := objstore.Count(objstore.NewMem(objstore.Clock{}), &total)
	ctx := objstore.WithCounter(t.Context(), &one)
	for _, err := range []error{s.Put(ctx, "there", []byte("12345")), s.PutIfAbsent(ctx, "b", []byte("12"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := total.Counts()
	everything(objstore.WithCounter(ctx, &inner), s)
	everything(t.Context(), s)
	keys := make([]string, 2001)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	if err := s.DeleteBatch(ctx, keys); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string][2]objstore.Counts{
		"in the inner context": {inner.Counts(), {Put: 2, Get: 2, List: 1, Head: 1, Delete: 2, BytesDown: 7}},
		"in the context":       {one.Counts(), {Put: 4, Get: 2, List: 1, Head: 1, Delete: 5, BytesDown: 7, BytesUp: 7}},
		"in all":               {total.Counts(), {Put: 6, Get: 4, List: 2, Head: 2, Delete: 7, BytesDown: 14, BytesUp: 7}},
		"since the start":      {total.Counts().Sub(before), {Put: 4, Get: 4, List: 2, Head: 2, Delete: 7, BytesDown: 14}},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %+v, want %+v", what, got[0], got[1])
		}
	}
	if n := one.Counts().Requests(); n != 13 {
		t.Errorf("%d requests", n)
	}
}

func TestLatency(t *testing.T) {
	c := &clock{}
	s := objstoretest.Latency(objstore.NewMem(objstore.Clock{}), objstoretest.LatencyOptions{
		Fixed: 10 * time.Millisecond, Jitter: 4 * time.Millisecond, Rate: 1 << 20, Clock: c.clock(), Rand: func() float64 { return 0.5 },
	})
	if err := s.Put(t.Context(), "a", make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetRange(t.Context(), "a", 0, 1<<19); err != nil {
		t.Fatal(err)
	}
	want := []time.Duration{1012 * time.Millisecond, 12 * time.Millisecond, 500 * time.Millisecond}
	if !slices.Equal(c.slept, want) {
		t.Fatalf("slept %v, want %v", c.slept, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i, err := range everything(ctx, s) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("request %d, cancelled in its delay: %v", i, err)
		}
	}
}

func TestPrefix(t *testing.T) {
	all := objstore.NewMem(objstore.Clock{})
	s := objstore.Prefix(all, "p/q")
	if err := s.Put(t.Context(), "a/b", []byte("data")); err != nil {
		t.Fatal(err)
	}
	if err := all.Put(t.Context(), "p/qq", nil); err != nil {
		t.Fatal(err)
	}
	if got, err := all.Get(t.Context(), "p/q/a/b"); err != nil || string(got) != "data" {
		t.Fatalf("%q, %v", got, err)
	}
	if infos, err := s.List(t.Context(), "", "", 0); err != nil || len(infos) != 1 || infos[0].Key != "a/b" {
		t.Fatalf("%v, %v", infos, err)
	}
	if got := s.String(); got != "mem://p/q" {
		t.Fatal(got)
	}
}

func TestFaultsChoose(t *testing.T) {
	f := objstore.NewFaults(objstore.NewMem(objstore.Clock{}), 1)
	f.Inject(objstore.Fault{
		Ops: []objstore.Op{objstore.OpPut, objstore.OpDeleteBatch}, Match: func(key string) bool { return strings.HasPrefix(key, "v/") },
		Skip: 1, Times: 2, Err: errs.New(errs.NoSpace, "full"),
	})
	ctx := t.Context()
	for i, c := range []struct {
		err  error
		kind errs.Kind // Internal: no error
	}{
		{f.Put(ctx, "w/1", nil), 0},
		{f.PutIfAbsent(ctx, "v/0", nil), 0},
		{f.Put(ctx, "v/1", nil), 0},
		{f.Put(ctx, "v/2", nil), errs.NoSpace},
		{f.DeleteBatch(ctx, []string{"w/2"}), 0},
		{f.DeleteBatch(ctx, []string{"w/2", "v/2"}), errs.NoSpace},
		{f.Put(ctx, "v/3", nil), 0},
	} {
		if c.kind == 0 && c.err != nil || c.kind != 0 && !errors.Is(c.err, c.kind) {
			t.Errorf("request %d: %v, want %s", i, c.err, c.kind)
		}
	}
	if f.Requests() != 7 {
		t.Errorf("%d requests", f.Requests())
	}
}

// TestFaultsRepeatable checks that a seed decides everything, whatever the
// order of other requests.
func TestFaultsRepeatable(t *testing.T) {
	run := func(seed uint64, reversed bool) string {
		f := objstore.NewFaults(objstore.NewMem(objstore.Clock{}), seed)
		keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		for _, k := range keys {
			if err := f.Put(t.Context(), k, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpGet}, Rate: 0.5, Effect: objstore.Flip})
		f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpGetRange}, Rate: 0.5, Effect: objstore.Truncate})
		if reversed {
			slices.Reverse(keys)
		}
		var results []string
		for _, k := range keys {
			for i := range 3 {
				data, err := f.Get(t.Context(), k)
				part, err2 := f.GetRange(t.Context(), k, 0, 500)
				if err != nil || err2 != nil {
					t.Fatal(err, err2)
				}
				bad := slices.IndexFunc(data, func(b byte) bool { return b != 0 })
				results = append(results, fmt.Sprintln(k, i, bad, len(part)))
			}
		}
		slices.Sort(results)
		return strings.Join(results, "")
	}
	first := run(1, false)
	if run(1, true) != first {
		t.Error("the order of requests matters")
	}
	if run(2, false) == first {
		t.Error("the seed does not matter")
	}
	if !strings.Contains(first, "-1 500") {
		t.Error("everything was struck")
	}
}

// forgetful is a store that takes If-None-Match for a mere wish.
type forgetful struct {
	objstore.Store
	says error // what a second create answers
}

func (f forgetful) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	_, err := f.Head(ctx, key)
	if perr := f.Put(ctx, key, data); perr != nil || err != nil {
		return perr
	}
	return f.says
}

func TestProbe(t *testing.T) {
	mem := objstore.NewMem(objstore.Clock{})
	ctx := t.Context()
	for _, says := range []error{nil, errs.New(errs.Exists, "exists")} {
		bad := forgetful{mem, says}
		for _, err := range []error{objstore.Probe(ctx, bad, "1"), objstore.ProbeRace(ctx, bad, "2")} {
			if says != nil && err == nil {
				continue // the racers' last bytes may be the winner's
			}
			if errs.KindOf(err) != errs.Unsupported || !strings.Contains(err.Error(), "mem://") || strings.Contains(err.Error(), "\n") {
				t.Errorf("second create says %v: %v", says, err)
			}
		}
	}
	f := objstore.NewFaults(mem, 1)
	var c objstore.Counter
	if err := objstore.Probe(ctx, objstore.Count(mem, &c), "count"); err != nil {
		t.Fatal(err)
	}
	if n := c.Counts().Requests(); n > 35 {
		t.Errorf("a probe takes %d requests", n)
	}
	for n := range int(c.Counts().Requests()) { // every request may fail, and none may be forgotten
		f.Clear()
		f.Inject(objstore.Fault{Skip: n, Times: 1})
		if err := objstore.Probe(ctx, f, fmt.Sprint("n", n)); !errors.Is(err, errs.Unavailable) {
			t.Errorf("request %d fails: %v", n, err)
		}
	}
	if err := mem.PutIfAbsent(ctx, "probe/used/once", nil); err != nil {
		t.Fatal(err)
	}
	if err := objstore.Probe(ctx, mem, "used"); !errors.Is(err, errs.Exists) {
		t.Error(err)
	}
}
