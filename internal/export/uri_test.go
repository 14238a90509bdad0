package export

import (
	"testing"
)

// TestURI: the URI that other programs get leads to the export.
func TestURI(t *testing.T) {
	for _, c := range []struct {
		addr, export string
		tls          bool
		want         string
	}{
		{"unix:/run/glide/nbd.sock", "vm1", false, "nbd+unix:///vm1?socket=/run/glide/nbd.sock"},
		{"unix:/srv/a b&c+d/nbd.sock", "acme/vm1", false, "nbd+unix:///acme/vm1?socket=/srv/a%20b%26c%2Bd/nbd.sock"},
		{"unix:/run/nbd.sock", "vm1@s", true, "nbds+unix:///vm1@s?socket=/run/nbd.sock"},
		{"tcp:10.0.0.5:10809", "vm1", true, "nbds://10.0.0.5:10809/vm1"},
		{"tcp:[::1]:10809", "vm1", false, "nbd://[::1]:10809/vm1"},
		{"tcp:[::]:10809", "vm1", false, "nbd://localhost:10809/vm1"},
		{"tcp:0.0.0.0:10809", "vm1", false, "nbd://localhost:10809/vm1"},
	} {
		if got := URI(c.addr, c.export, c.tls); got != c.want {
			t.Errorf("%s at %s: %s, want %s", c.export, c.addr, got, c.want)
		}
	}
}
