package nearest

import (
	"strings"
	"testing"
)

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
