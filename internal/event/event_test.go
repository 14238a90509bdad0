package event

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// add adds an event of a volume after the clock has advanced.
func add(l *Log, clock *time.Time, volume string, after time.Duration) {
	*clock = clock.Add(after)
	l.Add(Volume, volume, "something of %s", volume)
}

func newLog(clock *time.Time) *Log {
	return New(func() time.Time { return *clock }, slog.New(slog.DiscardHandler))
}

func (l *Log) of(tenant string, after uint64) (list []api.Event) {
	for _, e := range l.After(context.Background(), context.Background(), after, 0) {
		if strings.HasPrefix(e.Volume, tenant+"/") {
			list = append(list, e)
		}
	}
	return list
}

var begin = time.Date(2026, 11, 22, 12, 0, 0, 123_456_789, time.UTC)

// TestNumbersTellNothingOfOthers: a tenant's events are the same to the last digit whether or
// not others had some between.
func TestNumbersTellNothingOfOthers(t *testing.T) {
	var lists [2][]api.Event
	for i := range lists {
		clock := begin
		l := newLog(&clock)
		for range 20 {
			for range 7 * i {
				add(l, &clock, "other/web", 0)
			}
			add(l, &clock, "acme/web", time.Millisecond)
		}
		lists[i] = l.of("acme", 0)
	}
	if len(lists[0]) != 20 || !reflect.DeepEqual(lists[0], lists[1]) {
		t.Errorf("alone:\n%v\nbeside others:\n%v", lists[0], lists[1])
	}
	// Even where the clock stands still, a number is its event's time.
	clock := begin
	l := newLog(&clock)
	for range 3 {
		add(l, &clock, "other/web", 0)
	}
	add(l, &clock, "acme/web", 0)
	if e := l.of("acme", 0)[0]; e.Sequence != uint64(e.Time.UnixMicro()) {
		t.Errorf("%d at %v", e.Sequence, e.Time)
	}
}

// TestResume: who goes on after a number gets each later event once, wherever he stops,
// although the clock stands still or goes back, and after a restart of the daemon.
func TestResume(t *testing.T) {
	clock := begin
	l := newLog(&clock)
	for _, d := range []time.Duration{time.Second, 0, 0, -time.Hour, 0, time.Nanosecond, 2 * time.Hour} {
		add(l, &clock, "acme/web", d)
	}
	all := l.of("acme", 0)
	for i, e := range all {
		if i > 0 && e.Sequence <= all[i-1].Sequence {
			t.Errorf("%d follows %d", e.Sequence, all[i-1].Sequence)
		}
		if rest := l.of("acme", e.Sequence); len(rest) != len(all)-i-1 {
			t.Errorf("%d follow number %d of %d", len(rest), i+1, len(all))
		}
	}
	last := all[len(all)-1].Sequence
	again := newLog(&clock)
	add(again, &clock, "acme/web", time.Second)
	if rest := again.of("acme", last); len(rest) != 1 {
		t.Errorf("after a restart: %v", rest)
	}
}
