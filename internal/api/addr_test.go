package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

func TestParseAddr(t *testing.T) {
	for s, want := range map[string]struct {
		addr  string
		local bool
	}{
		"unix:/run/glide.sock":                 {"unix:/run/glide.sock", true},
		"unix:///run/glide.sock":               {"unix:/run/glide.sock", true},
		"unix:rel.sock":                        {"unix:rel.sock", true},
		"tcp:127.0.0.1:10809":                  {"tcp:127.0.0.1:10809", true},
		"tcp:localhost:0":                      {"tcp:localhost:0", true},
		"tcp:[::1]:1":                          {"tcp:[::1]:1", true},
		"tcp:[::ffff:127.0.0.1]:1":             {"tcp:[::ffff:127.0.0.1]:1", true},
		"tcp::10809":                           {"tcp::10809", false},
		"tcp:0.0.0.0:1":                        {"tcp:0.0.0.0:1", false},
		"tcp:vm.example.org:65535":             {"tcp:vm.example.org:65535", false},
		"unix:/" + strings.Repeat("a", 106):    {"unix:/" + strings.Repeat("a", 106), true},
		"tcp:localhost.evil.example.org:10809": {"tcp:localhost.evil.example.org:10809", false},
	} {
		a, err := ParseAddr(s)
		if err != nil || a.String() != want.addr || a.Local() != want.local {
			t.Errorf("ParseAddr(%q) = %s (local %v), %v", s, a, a.Local(), err)
		}
	}
	for s, any := range map[string]bool{"tcp::1": true, "tcp:0.0.0.0:1": true, "tcp:[::]:1": true, "tcp:10.0.0.1:1": false, "tcp:h:1": false, "unix:/a": false} {
		if a, err := ParseAddr(s); err != nil || a.Any() != any {
			t.Errorf("%s: any %v, %v", s, a.Any(), err)
		}
	}
	for _, s := range []string{"", "unix:", "unix", "/run/glide.sock", "tcp:", "tcp:host", "tcp:host:", "tcp:host:x", "tcp:host:65536", "tcp:host:-1",
		"tcp:a b:1", "tcp:a/b:1", "udp:host:1", "http://host:1", "unix:/" + strings.Repeat("a", 107), "unix:a\x00b"} {
		if a, err := ParseAddr(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseAddr(%q) = %s, %v, want a errs.Invalid", s, a, err)
		}
	}
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"unix:/a", "tcp:a:1", "tcp:[::1]:1", "tcp:[::1%lo]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddr(s)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("ParseAddr(%q): %v", s, err)
			}
			return
		}
		_ = a.Local()
		if b, err := ParseAddr(a.String()); err != nil || a != b {
			t.Fatalf("ParseAddr(%q) = %v, and then %v, %v", s, a, b, err)
		}
	})
}
