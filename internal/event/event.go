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
	Volume = "volume" // a volume was created, removed, taken over or fenced
	Store  = "store"  // the store fails, or works again
	Disk   = "disk"   // this host's disk is full or damaged
	Host   = "host"
)

// keptEvents is the number of events that a log keeps.
const keptEvents = 1000

// Log holds the newest events of one host, at most keptEvents. All methods may be called
// concurrently.
type Log struct {
	now func() time.Time
	log *slog.Logger

	mu   sync.Mutex
	all  []api.Event
	last uint64        // the number of the newest one
	wake chan struct{} // closed when an event is added
}

// New returns an empty log. Each event also goes to log.
func New(now func() time.Time, log *slog.Logger) *Log {
	return &Log{now: now, log: log}
}

// Add adds an event of a volume, or of the host if vol is "".
func (l *Log) Add(kind, vol, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Info(text, "event", kind, "volume", vol)
	l.mu.Lock()
	defer l.mu.Unlock()
	n, at := l.numberLocked()
	l.all = append(l.all, api.Event{Sequence: n, Time: at, Kind: kind, Volume: vol, Message: text})
	if len(l.all) > keptEvents {
		l.all = append(l.all[:0:0], l.all[len(l.all)-keptEvents:]...)
	}
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// numberLocked returns the number and the time of a new event. The number is the time, in
// microseconds: it says nothing more than the time does to who may see some events only, and
// a follower goes on with it after a restart of the daemon. Where the clock does not advance,
// or goes back, numbers go on nevertheless; such an event's time is as much later as its
// number, so that the two do not tell of another event either.
func (l *Log) numberLocked() (uint64, time.Time) {
	at := l.now().UTC().Truncate(time.Microsecond)
	n := uint64(max(1, at.UnixMicro()))
	if n <= l.last {
		at = at.Add(time.Duration(l.last+1-n) * time.Microsecond)
		n = l.last + 1
	}
	l.last = n
	return n, at
}

// After returns the events after the one with the given number, the oldest first; 0 means
// all that are kept. If there is none, it waits for one, until wait has passed or one of
// the contexts ends.
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

// after returns the events after a number, and a channel that is closed when the next one
// is added.
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
