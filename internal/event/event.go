package event

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// Kinds of events.
const (
	Volume = "volume" // it was made, removed, taken over, fenced
	Store  = "store"  // the store does not do what is asked of it, or does again
	Disk   = "disk"   // this host's disk is full, or damaged
	Host   = "host"
)

// keptEvents bounds what is remembered of the past.
const keptEvents = 1000

// Log has the newest events of one host, up to keptEvents, for people and for
// those who follow. All methods may be called concurrently.
type Log struct {
	now func() time.Time
	log *slog.Logger

	mu   sync.Mutex
	all  []api.Event
	next uint64
	wake chan struct{} // closed when one is added
}

// New returns an empty log. Each event is also logged to log.
func New(now func() time.Time, log *slog.Logger) *Log {
	return &Log{now: now, log: log}
}

// Add tells that something happened, to a volume or to the host ("").
func (l *Log) Add(kind, vol, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Info(text, "event", kind, "volume", vol)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	l.all = append(l.all, api.Event{Sequence: l.next, Time: l.now().UTC(), Kind: kind, Volume: vol, Message: text})
	if len(l.all) > keptEvents {
		l.all = append(l.all[:0:0], l.all[len(l.all)-keptEvents:]...)
	}
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// After returns what happened after the event with the given number (0: all that
// is remembered), the oldest first. If there is nothing it waits for something to
// happen: for as long as wait, and no longer than the contexts last.
func (l *Log) After(ctx, host context.Context, after uint64, wait time.Duration) []api.Event {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		out, wake := l.after(after)
		if len(out) > 0 || wait <= 0 {
			return out
		}
		select {
		case <-wake:
		case <-timeout.C:
			return out
		case <-ctx.Done():
			return out
		case <-host.Done():
			return out
		}
	}
}

// after returns the events after a number, and a channel that is closed with the next.
func (l *Log) after(number uint64) (out []api.Event, wake <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out = []api.Event{}
	for _, e := range l.all {
		if e.Sequence > number {
			out = append(out, e)
		}
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return out, l.wake
}
