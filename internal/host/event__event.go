package host

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// Kinds of events.
const (
	eventVolume = "volume" // it was made, removed, taken over, fenced
	eventStore  = "store"  // the store does not do what is asked of it, or does again
	eventDisk   = "disk"   // this host's disk is full, or damaged
	eventHost   = "host"
)

// keptEvents bounds what is remembered of the past.
const keptEvents = 1000

// events is what happened on this host since it started, for people and for
// those who follow.
type events struct {
	mu   sync.Mutex
	all  []api.Event // the newest keptEvents
	next uint64
	wake chan struct{} // closed when one is added
}

// event tells that something happened, to a volume or to the host ("").
func (h *Host) event(kind, vol, format string, args ...any) {
	e := &h.events
	text := fmt.Sprintf(format, args...)
	h.cfg.Log.Info(text, "event", kind, "volume", vol)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	e.all = append(e.all, api.Event{Sequence: e.next, Time: h.cfg.Now().UTC(), Kind: kind, Volume: vol, Message: text})
	if len(e.all) > keptEvents {
		e.all = append(e.all[:0:0], e.all[len(e.all)-keptEvents:]...)
	}
	if e.wake != nil {
		close(e.wake)
		e.wake = nil
	}
}

// Events returns what happened after the event with the given number (0: all that
// is remembered), the oldest first. If there is nothing it waits for as long
// as told, for something to happen.
func (h *Host) Events(ctx context.Context, after uint64, wait time.Duration) ([]api.Event, error) {
	e := &h.events
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		e.mu.Lock()
		out := []api.Event{}
		for _, ev := range e.all {
			if ev.Sequence > after {
				out = append(out, ev)
			}
		}
		if e.wake == nil {
			e.wake = make(chan struct{})
		}
		wake := e.wake
		e.mu.Unlock()
		if len(out) > 0 || wait <= 0 {
			return out, nil
		}
		select {
		case <-wake:
		case <-timeout.C:
			return out, nil
		case <-ctx.Done():
			return out, nil
		case <-h.ctx.Done():
			return out, nil
		}
	}
}
