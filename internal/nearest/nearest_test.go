package nearest

import (
	"strings"
	"testing"
)

func TestClosest(t *testing.T) {
	known := []string{"advertise", "cache", "log-level", "store"}
	for s, want := range map[string]string{
		"cahce": "cache", "cache-size": "cache", "store_url": "store", "log": "log-level", "zzzzz": "cache", strings.Repeat("a", 1000): "cache",
	} {
		if got := Closest(s, known); got != want {
			t.Errorf("Closest(%.20q) = %q, want %q", s, got, want)
		}
	}
	if got := Closest("x", nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestWord(t *testing.T) {
	known := []string{"wal-limit", "dirty-budget", "nbd", "api", "tls", "tls-cert"}
	for s, want := range map[string]string{
		"wal-limt": "wal-limit", "WAL_LIMIT": "wal-limit", "dirtybudget": "dirty-budget", "ndb": "nbd", "apis": "api",
		"tls-crt": "tls-cert", "": "", "zebra": "", "xyz": "", strings.Repeat("a", 1000): "",
	} {
		if got := Word(s, known); got != want {
			t.Errorf("Word(%.20q) = %q, want %q", s, got, want)
		}
	}
	if got := Hint("wal-limt", known); got != `, did you mean "wal-limit"?` {
		t.Errorf("Hint: %s", got)
	}
	if got := Hint("zebra", known); got != "" {
		t.Errorf("Hint: %s", got)
	}
}
