package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// clock is time that passes only by sleeping.
type clock struct {
	now    time.Time
	slept  []time.Duration
	limits []time.Duration
}

func (c *clock) clock() objstore.Clock {
	return objstore.Clock{
		Now: func() time.Time { return c.now },
		Sleep: func(ctx context.Context, d time.Duration) error {
			c.now = c.now.Add(d)
			c.slept = append(c.slept, d)
			return ctx.Err()
		},
		WithTimeout: func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
			c.limits = append(c.limits, d)
			return context.WithCancel(ctx)
		},
	}
}

// flaky is a store in memory under faults under retries.
func flaky(o objstore.RetryOptions, faults ...objstore.Fault) (objstore.Store, *objstore.Faults, *clock) {
	c := &clock{now: time.Unix(1e9, 0)}
	o.Clock = c.clock()
	if o.Rand == nil {
		o.Rand = func() float64 { return 1 } // whole pauses
	}
	f := objstore.NewFaults(objstore.NewMem(o.Clock), 1)
	for _, fault := range faults {
		f.Inject(fault)
	}
	return objstore.Retry(f, o), f, c
}

// everything makes one request of each kind.
func everything(ctx context.Context, s objstore.Store) []error {
	_, err1 := s.Get(ctx, "there")
	_, err2 := s.GetRange(ctx, "there", 1, 2)
	_, err3 := s.Head(ctx, "there")
	_, err4 := s.List(ctx, "", "", 0)
	return []error{
		err1, err2, err3, err4, s.Put(ctx, "a", nil), s.PutIfAbsent(ctx, "b", nil), s.Delete(ctx, "c"),
		s.DeleteBatch(ctx, []string{"d", "e"}),
	}
}

func TestRetryMends(t *testing.T) {
	for op := objstore.OpGet; op <= objstore.OpDeleteBatch; op++ {
		for _, effect := range []objstore.Effect{objstore.FailBefore, objstore.FailAfter, objstore.Late} {
			retried := 0
			s, f, _ := flaky(objstore.RetryOptions{OnRetry: func(got objstore.Op, _ string, err error) {
				if got != op || !errors.Is(err, errs.Unavailable) {
					t.Errorf("told of a retry of %s: %v", got, err)
				}
				retried++
			}})
			if err := s.Put(t.Context(), "there", []byte("data")); err != nil {
				t.Fatal(err)
			}
			f.Inject(objstore.Fault{Ops: []objstore.Op{op}, Times: 3, Effect: effect})
			for i, err := range everything(t.Context(), s) {
				if err != nil {
					t.Fatalf("%s, effect %d: request %d: %v", op, effect, i, err)
				}
			}
			if retried != 3 {
				t.Fatalf("%s: told of %d retries", op, retried)
			}
		}
	}
}

func TestRetryPauses(t *testing.T) {
	s, _, c := flaky(objstore.RetryOptions{}, objstore.Fault{})
	err := s.Put(t.Context(), "a", nil)
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "gave up after") {
		t.Fatal(err)
	}
	want := []time.Duration{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000}
	if len(c.slept) != len(want) {
		t.Fatalf("slept %v", c.slept)
	}
	for i := range want {
		if c.slept[i] != want[i]*time.Millisecond {
			t.Fatalf("slept %v", c.slept)
		}
	}
	// Asked to slow down, it does; and it stops before its time is over.
	s, _, c = flaky(objstore.RetryOptions{}, objstore.Fault{Err: errs.New(errs.Unavailable, "503: %w", objstore.ErrSlowDown)})
	if err := s.Put(t.Context(), "a", nil); !errors.Is(err, objstore.ErrSlowDown) {
		t.Fatal(err)
	}
	if len(c.slept) != 4 || c.slept[0] != time.Second || c.slept[3] != 8*time.Second {
		t.Fatalf("slept %v", c.slept)
	}
	// Jitter takes away half at most.
	s, _, c = flaky(objstore.RetryOptions{Rand: func() float64 { return 0 }}, objstore.Fault{Times: 1})
	if err := s.Put(t.Context(), "a", nil); err != nil || c.slept[0] != 25*time.Millisecond {
		t.Fatalf("%v, slept %v", err, c.slept)
	}
}

func TestRetryDeadlines(t *testing.T) {
	s, _, c := flaky(objstore.RetryOptions{}, objstore.Fault{Times: 5})
	if err := s.Put(t.Context(), "a", make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	want := []time.Duration{12, 24, 28, 36, 36, 36}
	for i := range want {
		if c.limits[i] != want[i]*time.Second {
			t.Fatalf("the limits of the tries are %v", c.limits)
		}
	}
}

// TestRetryHangs has a store that never answers the first two tries.
func TestRetryHangs(t *testing.T) {
	hang := &hanging{Store: objstore.NewMem(objstore.Clock{}), times: 2}
	s := objstore.Retry(hang, objstore.RetryOptions{TryTimeout: 5 * time.Millisecond, Backoff: time.Microsecond})
	if err := s.PutIfAbsent(t.Context(), "a", []byte("data")); err != nil {
		t.Fatal(err)
	}
	hang.times = 1000
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.PutIfAbsent(ctx, "b", nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errs.Unavailable) {
		t.Fatal(err)
	}
}

type hanging struct {
	objstore.Store
	times int
}

func (h *hanging) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if h.times--; h.times >= 0 {
		<-ctx.Done()
		return errs.New(errs.Unavailable, "put: %w", ctx.Err())
	}
	return h.Store.PutIfAbsent(ctx, key, data)
}

func TestRetryDoesNot(t *testing.T) {
	for _, err := range []error{
		errs.New(errs.NotFound, "x"), errs.New(errs.NoSpace, "x"), errs.New(errs.ReadOnly, "x"),
		errs.New(errs.Invalid, "x"), errors.New("x"), errs.New(errs.Unavailable, "x: %w", objstore.ErrPersistent),
	} {
		s, f, _ := flaky(objstore.RetryOptions{}, objstore.Fault{Err: err})
		if got := s.Put(t.Context(), "a", nil); !errors.Is(got, err) || f.Requests() != 1 {
			t.Errorf("%v: returned %v after %d requests", err, got, f.Requests())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, f, _ := flaky(objstore.RetryOptions{OnRetry: func(objstore.Op, string, error) { cancel() }}, objstore.Fault{})
	if err := s.Put(ctx, "a", nil); !errors.Is(err, context.Canceled) || !errors.Is(err, errs.Unavailable) || f.Requests() != 1 {
		t.Errorf("cancelled while waiting: %v after %d requests", err, f.Requests())
	}
}

// TestRetryLostAnswer loses the answer of a create that won: the next try is
// told that the object exists, and must not believe that it is another's.
func TestRetryLostAnswer(t *testing.T) {
	create := []objstore.Op{objstore.OpPutIfAbsent}
	s, f, _ := flaky(objstore.RetryOptions{}, objstore.Fault{Ops: create, Times: 1, Effect: objstore.FailAfter})
	if err := s.PutIfAbsent(t.Context(), "mine", []byte("by me")); err != nil {
		t.Fatal(err)
	}
	// Without a doubtful try, equal bytes are no proof.
	if err := s.PutIfAbsent(t.Context(), "mine", []byte("by me")); !errors.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	// The first try fails, and another's object is there.
	f.Inject(objstore.Fault{Ops: create, Times: 1, Effect: objstore.FailBefore})
	if err := s.PutIfAbsent(t.Context(), "mine", []byte("by someone else")); !errors.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	// Whose it is cannot be found out.
	f.Clear()
	f.Inject(objstore.Fault{Ops: create, Times: 1, Effect: objstore.FailAfter})
	f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpGet}, Err: errs.New(errs.NotFound, "gone")})
	if err := s.PutIfAbsent(t.Context(), "other", nil); errs.KindOf(err) != errs.Unavailable {
		t.Fatal(err)
	}
}

// TestRetryLateCreate has the first try take effect after a rival's create.
func TestRetryLateCreate(t *testing.T) {
	s, f, _ := flaky(objstore.RetryOptions{}, objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.Late})
	data := []byte("second try")
	if err := s.PutIfAbsent(t.Context(), "a", data); err != nil {
		t.Fatal(err)
	}
	copy(data, "overwritten")
	held := f.Held()
	if len(held) != 1 || held[0].Op != objstore.OpPutIfAbsent || held[0].Key != "a" {
		t.Fatalf("held: %+v", held)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it takes effect once
		if err := held[0].Release(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Get(t.Context(), "a"); err != nil || string(got) != "second try" {
		t.Fatalf("the late create made %q, %v", got, err)
	}
}

// TestRetryTornRead cuts ranged reads short.
func TestRetryTornRead(t *testing.T) {
	s, f, _ := flaky(objstore.RetryOptions{}, objstore.Fault{Ops: []objstore.Op{objstore.OpGetRange}, Times: 4, Effect: objstore.Truncate})
	data := bytes.Repeat([]byte("0123456789"), 100)
	if err := s.Put(t.Context(), "a", data); err != nil {
		t.Fatal(err)
	}
	if got, err := s.GetRange(t.Context(), "a", 5, 900); err != nil || !bytes.Equal(got, data[5:905]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if f.Requests() != 6 {
		t.Fatalf("%d requests", f.Requests())
	}
}

// stalling is a store that never answers: each try takes all of its time.
type stalling struct {
	objstore.Store
	c *clock
}

func (s stalling) stall() error {
	s.c.now = s.c.now.Add(s.c.limits[len(s.c.limits)-1])
	return errs.New(errs.Unavailable, "no answer in time")
}

func (s stalling) Get(context.Context, string) ([]byte, error) { return nil, s.stall() }

func (s stalling) GetRange(context.Context, string, int64, int64) ([]byte, error) {
	return nil, s.stall()
}

func (s stalling) List(context.Context, string, string, int) ([]objstore.Info, error) {
	return nil, s.stall()
}

// Reads of a store that does not answer fail within 38 s, as the docs say.
func TestStalledReads(t *testing.T) {
	for i := range 3 {
		c := &clock{now: time.Unix(1e9, 0)}
		s := objstore.Retry(stalling{objstore.NewMem(c.clock()), c}, objstore.RetryOptions{Clock: c.clock(), Rand: func() float64 { return 1 }})
		began := c.now
		var err error
		switch i {
		case 0:
			_, err = s.Get(t.Context(), "a")
		case 1:
			_, err = s.GetRange(t.Context(), "a", 0, 3<<20)
		case 2:
			_, err = s.List(t.Context(), "", "", 0)
		}
		if took := c.now.Sub(began); errs.KindOf(err) != errs.Unavailable || took > 38*time.Second || took < 10*time.Second {
			t.Errorf("request %d: after %s: %v", i, took, err)
		}
	}
}
