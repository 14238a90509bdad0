package durability

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// script drives a promise with lines of text, and answers each line with the result.
// Times are milliseconds of the uptime clock.
type script struct {
	p       promise
	now     time.Duration
	u       unsent
	waiters map[string]waiter
}

func (s *script) do(line string) string {
	var seq, n, at int64
	var name string
	scan := func(format string, args ...any) bool {
		got, err := fmt.Sscanf(line, format, args...)
		return err == nil && got == len(args)
	}
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	switch {
	case scan("at %d", &at):
		s.now = ms(at)
		return ""
	case scan("write %d bytes", &n):
		if s.u.bytes += n; s.u.at == 0 {
			s.u.at = s.now
		}
		return ""
	case line == "due":
		switch d := s.p.due(s.now, s.u); {
		case d == forever:
			return "never"
		case d <= 0:
			return "now"
		default:
			return d.Round(time.Millisecond).String()
		}
	case scan("send through %d", &seq):
		s.p.take(s.u.at)
		s.p.took(flight{seq: uint64(seq), at: s.u.at, began: s.now, bytes: s.u.bytes})
		s.u = unsent{}
		s.p.returned()
		return ""
	case scan("withdraw the last %d", &n):
		for _, f := range s.p.inFlight[len(s.p.inFlight)-int(n):] { // as Volume.ReturnChanges does
			if s.u.bytes += f.bytes; s.u.at == 0 || f.at < s.u.at {
				s.u.at = f.at
			}
		}
		s.p.withdrawn(int(n))
		return ""
	case line == "landed":
		f := s.p.inFlight[0]
		recovered := s.p.landed(s.now)
		s.p.reached(f.seq)
		if recovered {
			return "recovered"
		}
		return ""
	case strings.HasPrefix(line, "failed"):
		err := errs.New(errs.Unavailable, "away")
		if line == "failed: damaged" {
			err = errs.New(errs.Corrupt, "damaged")
		}
		if s.p.failed(s.now, err) {
			return "news"
		}
		return ""
	case scan("wait for %d timeout %d as %s", &seq, &n, &name):
		s.p.wanted = max(s.p.wanted, uint64(seq))
		s.waiters[name] = s.p.newWaiter(s.now, uint64(seq), ms(n))
		return ""
	case scan("outcome of %s", &name):
		done, err := s.p.outcome(s.waiters[name], s.now, nil)
		switch {
		case !done:
			return "waits"
		case err != nil:
			return err.Error()
		}
		return "stored"
	case line == "acknowledge":
		oldest := s.p.oldestInFlight()
		if oldest == 0 {
			oldest = s.u.at
		}
		ok, slow := s.p.policy.mayAcknowledge(s.now, oldest, s.u)
		why := s.p.stalled(ok, slow)
		switch {
		case !ok:
			return "no: " + why
		case slow > 0:
			return "after " + slow.Round(time.Millisecond).String() + ": " + why
		}
		return strings.TrimSuffix("yes: "+why, ": ")
	case line == "end":
		s.p.end(errors.New("fenced"))
		return ""
	}
	return "?"
}

// TestPromise reads like a conversation: an event, then "=>" and its effect.
func TestPromise(t *testing.T) {
	for name, c := range map[string]struct {
		policy promised
		script string
	}{
		"continuous acknowledges nothing that gets too old": {promised{rpo: 5 * time.Second}, `
			due => never
			at 1000
			acknowledge => yes
			write 4096 bytes
			due => 2.5s
			at 3500
			due => now
			acknowledge => yes
			at 4500
			acknowledge => after 8ms: writes are slowed: the store does not keep up
			at 5500
			acknowledge => no: writes wait for the store, which does not keep up
			send through 1
			acknowledge => no: writes wait for the store, which does not keep up
			at 5600
			landed
			acknowledge => yes
			due => never`},
		"a store that is away is news once, and when it is back": {promised{rpo: time.Second}, `
			at 1000
			write 4096 bytes
			failed => news
			failed
			acknowledge => yes: the store does not take commits: away
			at 1950
			acknowledge => no: writes wait: the store does not take commits: away
			send through 1
			landed => recovered
			acknowledge => yes`},
		"sync waits for flushes, not for writes": {promised{sync: true, rpo: time.Second}, `
			at 1000
			write 4096 bytes
			at 9000
			acknowledge => yes
			wait for 1 timeout 0 as guest
			due => now
			outcome of guest => waits
			send through 1
			due => never
			outcome of guest => waits
			landed
			outcome of guest => stored`},
		"flushes that come close together share a commit": {promised{sync: true, rpo: time.Second}, `
			at 1000
			write 4096 bytes
			wait for 1 timeout 0 as first
			due => now
			send through 1
			write 4096 bytes
			wait for 2 timeout 0 as second
			due => 10ms
			at 1010
			due => now`},
		"a command gives up, a guest does not": {promised{sync: true, rpo: time.Second}, `
			at 1000
			write 4096 bytes
			wait for 1 timeout 20000 as command
			wait for 1 timeout 0 as guest
			failed => news
			at 20000
			failed
			outcome of command => waits
			at 22000
			outcome of command => the store does not hold these writes yet; sending resumes by itself when the store does: away
			outcome of guest => waits
			end
			outcome of guest => fenced`},
		"damage is told after a second attempt": {promised{sync: true, rpo: time.Second}, `
			at 1000
			write 4096 bytes
			wait for 1 timeout 0 as guest
			failed: damaged => news
			outcome of guest => waits
			failed: damaged
			outcome of guest => damaged`},
		"what was withdrawn is sent again, and acknowledged only then": {promised{sync: true, rpo: time.Second}, `
			at 1000
			write 4096 bytes
			send through 1
			write 8388608 bytes
			send through 2
			write 4096 bytes
			wait for 3 timeout 0 as guest
			at 1010
			send through 3
			due => never
			withdraw the last 2
			due => 10ms
			at 1020
			due => now
			landed
			outcome of guest => waits
			send through 3
			due => never
			outcome of guest => waits
			landed
			outcome of guest => stored`},
		"what was withdrawn keeps its age": {promised{rpo: 5 * time.Second}, `
			at 1000
			write 4096 bytes
			send through 1
			at 5600
			write 4096 bytes
			withdraw the last 1
			acknowledge => no: writes wait for the store, which does not keep up
			send through 2
			acknowledge => no: writes wait for the store, which does not keep up
			landed
			acknowledge => yes`},
		"too much that is unsent": {promised{sync: true, rpo: time.Second}, `
			at 1000
			write 8388608 bytes
			due => now
			acknowledge => yes
			write 8388609 bytes
			acknowledge => no: writes wait for the store, which does not keep up`},
	} {
		t.Run(name, func(t *testing.T) {
			s := script{p: promise{policy: c.policy, latency: 50 * time.Millisecond}, waiters: map[string]waiter{}}
			for _, line := range strings.Split(strings.TrimSpace(c.script), "\n") {
				in, want, _ := strings.Cut(strings.TrimSpace(line), " => ")
				if got := s.do(in); got != want {
					t.Fatalf("%s => %q, want %q", in, got, want)
				}
			}
		})
	}
}
