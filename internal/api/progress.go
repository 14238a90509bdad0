package api

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Progress of long work is sent before its answer: a request with the header
// Glide-Progress, whatever its value, gets informational answers (102) with the same
// header, "DONE TOTAL" in bytes. Other requests get none. A client that does not know
// informational answers ignores them, as HTTP requires.
const ProgressHeader = "Glide-Progress"

// progressEvery is the least time between two reports of progress.
const progressEvery = 100 * time.Millisecond

type progressKey struct{}

// WithProgress returns a context with which long work calls report with the bytes done
// and the total. report may be called by any goroutine, but only by one at a time, and
// not after the work has returned.
func WithProgress(ctx context.Context, report func(done, total uint64)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// Progress is the context's report function, nil if there is none.
func Progress(ctx context.Context) func(done, total uint64) {
	report, _ := ctx.Value(progressKey{}).(func(done, total uint64))
	return report
}

// told sends the progress of a request's work to its client, if the client asks for
// it, until done is called. Then the answer follows.
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
