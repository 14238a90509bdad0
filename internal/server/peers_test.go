package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/errs"
)

// hostAt asks the host at an address what it is.
func hostAt(ctx context.Context, p peers, addr string) (api.Host, error) {
	c, err := p.dial(addr, "host")
	if err != nil {
		return api.Host{}, err
	}
	defer c.Close()
	return c.Host(ctx)
}

// A token goes only where the operator allows it, whatever a name stands for.
func TestPeersAllow(t *testing.T) {
	p := peers{certs: func() *certs.Set { return nil }, allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "127.3.4.5": true, "::ffff:127.0.0.1": true, "10.1.2.3": true, "::ffff:10.1.2.3": true, "fd00::1": true,
		"11.0.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "::ffff:11.0.0.1": false, "fe80::1%eth0": false, "0.0.0.0": false,
	} {
		if err := p.permit(netip.MustParseAddr(addr)); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	sent := make(chan string, 1)
	p.token = func() string { return "secret" }
	p.allow = nil
	for _, addr := range []string{"tcp:192.0.2.1:7070", "tcp:stranger.invalid:7070"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := hostAt(ctx, p, addr)
		cancel()
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", addr, err)
		}
		if strings.Contains(addr, "192.0.2.1") && !strings.Contains(err.Error(), "--peers-allow") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		sent <- string(b[:n])
		_ = c.Close()
	}()
	_, _ = hostAt(t.Context(), p, "tcp:"+l.Addr().String())
	if got := <-sent; !strings.Contains(got, "Bearer secret") {
		t.Errorf("to this machine: %q", got)
	}
	_ = l.Close()
}
