package cost

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/objstore"
)

var ctx = context.Background()

func TestFirstPurposeCounts(t *testing.T) {
	v, w := Volume{1}, Volume{2}
	for what, c := range map[string]struct {
		ctx  context.Context
		want purpose
	}{
		"nothing":                      {ctx, purpose{}},
		"a job":                        {Begin(ctx, Boot, v), purpose{Boot, v}},
		"a flush":                      {With(ctx, Flush, v), purpose{Flush, v}},
		"a flush in a fork":            {With(With(ctx, Fork, Volume{}), Flush, v), purpose{Fork, v}},
		"a flush of another volume":    {With(With(ctx, Fork, v), Flush, w), purpose{Fork, v}},
		"a job that a verb begins":     {Begin(With(ctx, Fork, v), Fold, w), purpose{Fold, w}},
		"what outlives a verb":         {Carry(ctx, With(ctx, Fork, v)), purpose{Fork, v}},
		"what outlives it in a job":    {Carry(Begin(ctx, Ship, w), With(ctx, Fork, v)), purpose{Fork, v}},
		"a volume without a cause yet": {With(Begin(ctx, Other, v), Read, w), purpose{Read, v}},
	} {
		if got := purposeOf(c.ctx); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
	if c := With(ctx, Fork, v); With(c, Flush, w) != c {
		t.Error("a context is derived for nothing")
	}
}

func TestLedger(t *testing.T) {
	var total objstore.Counter
	l := NewLedger(time.Unix(5, 0))
	known := Volume{1}
	l.Known = func(v Volume) bool { return v == known }
	s := l.Wrap(objstore.Count(objstore.NewMem(objstore.Clock{}), &total))
	all := func(ctx context.Context) {
		for _, err := range []error{s.Put(ctx, "k", []byte("abc")), s.PutIfAbsent(ctx, "l", nil), s.Delete(ctx, "l"), s.DeleteBatch(ctx, []string{"x"})} {
			if err != nil {
				t.Error(err)
			}
		}
		_, err1 := s.Get(ctx, "k")
		_, err2 := s.GetRange(ctx, "k", 1, 1)
		_, err3 := s.Head(ctx, "k")
		_, err4 := s.List(ctx, "", "", 0)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	one := objstore.Counts{Put: 2, Get: 2, List: 1, Head: 1, Delete: 2, BytesUp: 3, BytesDown: 4}
	all(Begin(ctx, Flush, known))
	all(Begin(ctx, Read, Volume{9}))
	all(ctx)
	want := map[string]objstore.Counts{"flush": one, "read": one, "other": one}
	got := l.Counts()
	for cause := range want {
		if got[cause] != one {
			t.Errorf("%s: %+v, want %+v", cause, got[cause], one)
		}
	}
	if total.Counts() != one.Add(one).Add(one) || len(got) != 3 {
		t.Errorf("the causes are %v, the store was asked %+v", got, total.Counts())
	}
	if v := l.VolumeCounts(known); len(v) != 1 || v["flush"] != one {
		t.Errorf("for the volume: %v", v)
	}
	if v := l.VolumeCounts(Volume{9}); len(v) != 0 {
		t.Errorf("for a volume that the host has not: %v", v)
	}
	l.Forget(known)
	if v := l.VolumeCounts(known); len(v) != 0 {
		t.Errorf("for a removed volume: %v", v)
	}
}

// TestLedgerAtOnce: nothing is lost between requests that are made at the same time.
func TestLedgerAtOnce(t *testing.T) {
	var total objstore.Counter
	l := NewLedger(time.Time{})
	s := l.Wrap(objstore.Count(objstore.NewMem(objstore.Clock{}), &total))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				_ = s.Put(Begin(ctx, Cause(i)%causes, Volume{byte(i % 2)}), "k", []byte("x"))
			}
		})
	}
	wg.Wait()
	var sum objstore.Counts
	for _, c := range l.Counts() {
		sum = sum.Add(c)
	}
	if sum != total.Counts() || sum.Put != 1600 {
		t.Errorf("%+v of %+v", sum, total.Counts())
	}
	if n := l.VolumeCounts(Volume{1}); n["boot"].Put != 200 {
		t.Errorf("%v", n)
	}
}

func TestPerMonth(t *testing.T) {
	c := objstore.Counts{Put: 1000, Get: 2000, Head: 1000, List: 1000, Delete: 1000, BytesUp: 1e9, BytesDown: 2e9}
	p := Prices{Put: 1, Get: 10, Delete: 100, Stored: 1e6, Up: 1000, Down: 10_000}
	for what, x := range map[string]struct {
		p       Prices
		counted time.Duration
		stored  uint64
		want    float64
	}{
		"a month":            {p, month, 0, 1 + 30 + 1 + 100 + 1000 + 20_000},
		"half of one":        {p, month / 2, 0, 2 * 21_132},
		"stored":             {p, month, 3e9, 21_132 + 3e6},
		"a price of LIST":    {Prices{Put: 1, List: 7, HasList: true}, month, 0, 8},
		"LIST free":          {Prices{Put: 1, HasList: true}, month, 0, 1},
		"just started":       {p, 0, 1e9, 1e6},
		"a clock set back":   {p, -time.Hour, 0, 0},
		"no prices":          {Prices{}, month, 1e9, 0},
		"nothing but stored": {Prices{Stored: 2}, time.Second, 1e9, 2},
	} {
		if got := x.p.PerMonth(c, x.counted, x.stored); math.Abs(got-x.want) > 1e-6 {
			t.Errorf("%s: %v, want %v", what, got, x.want)
		}
	}
	for c := range causes {
		if c.String() == "" {
			t.Errorf("cause %d has no name", c)
		}
	}
}
