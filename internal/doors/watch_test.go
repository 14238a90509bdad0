package doors

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/certs/certstest"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/nbd"
)

// nobodyElse is a user of this machine who is neither root nor who runs the test.
const nobodyElse = 4711

// house is a daemon's doors, with all that lets somebody in.
type house struct {
	*Doors
	t      *testing.T
	tokens string // the file
	users  string // the file
	common string
	pool   *x509.CertPool
	time   atomic.Int64 // what has passed
}

func newHouse(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	h := &house{t: t, tokens: filepath.Join(dir, "tokens"), users: filepath.Join(dir, "users"), common: "common"}
	now := func() time.Time { return time.Now().Add(time.Duration(h.time.Load())) }
	h.writeUsers("acme use *")
	tokens, err := auth.OpenTokens(h.tokens, now)
	if err != nil {
		t.Fatal(err)
	}
	users, err := auth.OpenUsers(h.users)
	if err != nil {
		t.Fatal(err)
	}
	h.Doors = New(tokens, func() string { return h.common }, users, func() *x509.CertPool { return h.pool }, now, nil)
	return h
}

func (h *house) writeUsers(may string) {
	h.t.Helper()
	text := ""
	if may != "" {
		text = fmt.Sprintf("%d %s\n", nobodyElse, may)
	}
	if err := os.WriteFile(h.users, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if h.Doors != nil {
		if err := h.Doors.users.Read(); err != nil {
			h.t.Fatal(err)
		}
	}
}

// token makes a token, and returns its text and its id.
func (h *house) token(verbs auth.Verbs, until time.Time, volumes ...string) (text, id string) {
	h.t.Helper()
	tok, text := auth.NewToken("acme", volumes, verbs, until)
	if err := h.Doors.tokens.Add(tok); err != nil {
		h.t.Fatal(err)
	}
	return text, tok.ID
}

// edit changes the file of tokens by hand.
func (h *house) edit(old, now string) {
	h.t.Helper()
	raw, err := os.ReadFile(h.tokens)
	if err != nil || !strings.Contains(string(raw), old) {
		h.t.Fatalf("%v: %s", err, raw)
	}
	if err := errors.Join(os.WriteFile(h.tokens, []byte(strings.Replace(string(raw), old, now, 1)), 0o600), h.Doors.tokens.Read()); err != nil {
		h.t.Fatal(err)
	}
}

// guest is an open export.
type guest struct {
	x     *nbd.Export
	ended chan error
}

// gone tells whether the guest's connection was ended.
func (g *guest) gone(t *testing.T, wanted bool) bool {
	t.Helper()
	wait := 20 * time.Millisecond
	if wanted {
		wait = 10 * time.Second
	}
	select {
	case err := <-g.ended:
		if errs.KindOf(err) != errs.Denied {
			t.Errorf("it was ended by %v", err)
		}
		g.x.Closed()
		return true
	case <-time.After(wait):
		return false
	}
}

// open opens an export as a client. A principal is the kernel's word, or a certificate's.
func (h *house) open(nc net.Conn, own bool, peer nbd.Peer, user bool, name string) *guest {
	h.t.Helper()
	g := &guest{ended: make(chan error, 10)}
	peer.Conn, peer.End = nc, func(why error) { g.ended <- why }
	e, err := h.Exports(&shop{}, nil, own).(nbd.PerPeer).For(peer)
	if err != nil {
		h.t.Fatal(err)
	}
	if own {
		e.(*entrance).user = auth.Owner()
	}
	if user {
		e.(*entrance).user = h.Doors.users.Of(nobodyElse)
	}
	if g.x, err = e.Open(name); err != nil {
		h.t.Fatal(err)
	}
	return g
}

// TestGuestsLeave: an open connection ends when what let its client in does, and no other one.
func TestGuestsLeave(t *testing.T) {
	local, remote := ends(t)
	ours, theirs := certstest.New(t, certstest.ECDSA), certstest.New(t, certstest.ECDSA)
	for _, c := range []struct {
		what  string
		open  func(h *house) *guest
		still func(h *house) // changes that do not concern it
		end   func(h *house)
	}{
		{what: "a token is revoked", open: func(h *house) *guest {
			text, id := h.token(auth.Use, time.Time{})
			h.t.Setenv("ID", id)
			return h.open(local, true, nbd.Peer{}, false, "web#"+text)
		}, still: func(h *house) { _, id := h.token(auth.Use, time.Time{}); _ = h.Doors.tokens.Revoke(id) },
			end: func(h *house) {
				if err := h.Doors.tokens.Revoke(os.Getenv("ID")); err != nil {
					t.Fatal(err)
				}
			}},
		{what: "a token expires", open: func(h *house) *guest {
			text, _ := h.token(auth.Use, time.Now().Add(time.Hour))
			return h.open(local, true, nbd.Peer{}, false, "web#"+text)
		}, still: func(h *house) { h.time.Store(int64(50 * time.Minute)) }, end: func(h *house) { h.time.Store(int64(70 * time.Minute)) }},
		{what: "a token is another's volume", open: func(h *house) *guest {
			text, _ := h.token(auth.Use, time.Time{}, "web")
			return h.open(local, true, nbd.Peer{}, false, "web#"+text)
		}, still: func(h *house) { h.edit(" use web ", " use web,db ") }, end: func(h *house) { h.edit(" use web,db ", " use db ") }},
		{what: "a token has another secret", open: func(h *house) *guest {
			text, id := h.token(auth.Use, time.Time{})
			h.t.Setenv("ID", id)
			return h.open(local, true, nbd.Peer{}, false, "web#"+text)
		}, end: func(h *house) {
			raw, err := os.ReadFile(h.tokens)
			if err != nil {
				t.Fatal(err)
			}
			hash := strings.Fields(string(raw)[strings.Index(string(raw), os.Getenv("ID")):])[1]
			h.edit(hash, strings.Repeat("0", 64))
		}},
		{what: "a token may only read", open: func(h *house) *guest {
			text, _ := h.token(auth.Use, time.Time{})
			return h.open(local, true, nbd.Peer{}, false, "web#"+text)
		}, end: func(h *house) { h.edit(" use ", " use-ro ") }},
		{what: "a reader's token may read no more", open: func(h *house) *guest {
			text, _ := h.token(auth.UseReadOnly, time.Time{})
			return h.open(local, true, nbd.Peer{}, false, "web#"+text)
		}, still: func(h *house) { h.edit(" use-ro ", " use ") }, end: func(h *house) { h.edit(" use ", " metrics ") }},
		{what: "the common token changes", open: func(h *house) *guest {
			return h.open(local, true, nbd.Peer{}, false, "plain#common")
		}, end: func(h *house) { h.common = "other" }},
		{what: "a user is taken out", open: func(h *house) *guest {
			return h.open(local, true, nbd.Peer{}, true, "web")
		}, still: func(h *house) { h.writeUsers("acme use we?") }, end: func(h *house) { h.writeUsers("") }},
		{what: "a user who may use all is taken out", open: func(h *house) *guest {
			h.writeUsers("* use *")
			return h.open(local, true, nbd.Peer{}, true, "plain")
		}, still: func(h *house) { h.writeUsers("* use,manage *") }, end: func(h *house) { h.writeUsers("acme use *") }},
		{what: "a certificate's authority goes", open: func(h *house) *guest {
			return h.open(remote, false, h.shown(ours, "glide://tenant/acme"), false, "web")
		}, still: func(h *house) { h.trust(ours, theirs) }, end: func(h *house) { h.trust(theirs) }},
		{what: "there is no authority", open: func(h *house) *guest {
			return h.open(remote, false, h.shown(ours, "glide://tenant/acme"), false, "web")
		}, end: func(h *house) { h.pool = nil }},
		{what: "a certificate expires", open: func(h *house) *guest {
			return h.open(remote, false, h.shown(ours, "glide://tenant/acme"), false, "web")
		}, still: func(h *house) { h.time.Store(int64(998 * time.Hour)) }, end: func(h *house) { h.time.Store(int64(1001 * time.Hour)) }},
		{what: "the authority of a certificate for the whole host goes", open: func(h *house) *guest {
			return h.open(remote, false, h.shown(ours, ""), false, "plain")
		}, end: func(h *house) { h.trust(theirs) }},
		{what: "the certificate under a token expires", open: func(h *house) *guest {
			text, _ := h.token(auth.Use, time.Time{})
			return h.open(remote, false, h.shown(ours, ""), false, "web#"+text)
		}, end: func(h *house) { h.time.Store(int64(1001 * time.Hour)) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := newHouse(t)
			// Those who stay: with another token, and whom nothing can take the right from.
			text, _ := h.token(auth.Read|auth.Use, time.Time{}, "w*")
			others := []*guest{h.open(local, true, nbd.Peer{}, false, "web#"+text), h.open(local, true, nbd.Peer{}, false, "plain")}
			g := c.open(h)
			if h.look(); g.gone(t, false) {
				t.Fatal("it ended at once")
			}
			if c.still != nil {
				c.still(h)
				if h.look(); g.gone(t, false) {
					t.Fatal("it ended because of something else")
				}
			}
			c.end(h)
			if h.look(); !g.gone(t, true) {
				t.Error("it goes on")
			}
			if h.look(); len(g.ended) > 0 {
				t.Error("it was ended twice")
			}
			for _, o := range others {
				if o.gone(t, false) {
					t.Errorf("another guest's connection was ended, of %s", o.x.Name)
				}
				o.x.Closed()
			}
			if n := len(h.visits.all); n > 0 {
				t.Errorf("%d visits are remembered", n)
			}
		})
	}
}

// trust makes the authorities those of the host.
func (h *house) trust(list ...*certstest.Authority) {
	h.t.Helper()
	h.pool = x509.NewCertPool()
	for _, a := range list {
		all, err := certs.FromPEM(a.CA)
		if err != nil {
			h.t.Fatal(err)
		}
		h.pool.AddCert(all[0])
	}
}

// shown is a client with a certificate of an authority of the host.
func (h *house) shown(a *certstest.Authority, uri string) nbd.Peer {
	h.t.Helper()
	h.trust(a)
	_, files := a.Issue(certstest.Want{URI: uri})
	list, err := certs.FromPEM(files.Cert)
	if err != nil {
		h.t.Fatal(err)
	}
	state := certificate(h.t)
	state.PeerCertificates = list
	if state.VerifiedChains, err = certs.Verify(list, h.pool); err != nil {
		h.t.Fatal(err)
	}
	return nbd.Peer{TLS: state}
}
