package api

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Progress of long work travels ahead of its answer: a request that has the
// header Glide-Progress with any value gets informational answers (102) with
// the same header, "DONE TOTAL" in bytes. Who does not ask for it gets none,
// and who does not know it ignores them, as HTTP has it.
const ProgressHeader = "Glide-Progress"

// progressEvery is how often progress is told at most: for the eye.
const progressEvery = 100 * time.Millisecond

type progressKey struct{}

// WithProgress returns a context that makes long work tell report how many
// bytes are done, of how many. report may be called by any goroutine, but by
// one at a time, and not after the work has returned.
func WithProgress(ctx context.Context, report func(done, total uint64)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// Progress is the context's report, nil if nobody wants to know.
func Progress(ctx context.Context) func(done, total uint64) {
	report, _ := ctx.Value(progressKey{}).(func(done, total uint64))
	return report
}

// told makes the progress of a request's work go to its sender, if that asks
// for it, until done is called: afterwards the answer follows.
func told(w http.ResponseWriter, r *http.Request) (ctx context.Context, done func()) {
	if r.Header.Get(ProgressHeader) == "" || !r.ProtoAtLeast(1, 1) {
		return r.Context(), func() {}
	}
	var mu sync.Mutex
	over := false
	var last time.Time
	report := func(done, total uint64) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if over || now.Sub(last) < progressEvery {
			return
		}
		last = now
		w.Header().Set(ProgressHeader, fmt.Sprintf("%d %d", done, total))
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del(ProgressHeader)
	}
	return WithProgress(r.Context(), report), func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// ParseProgress reads the header of an informational answer.
func ParseProgress(value string) (done, total uint64, ok bool) {
	n, err := fmt.Sscanf(value, "%d %d", &done, &total)
	return done, total, err == nil && n == 2 && done <= total
}
