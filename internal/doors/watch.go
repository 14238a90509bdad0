package doors

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/nbd"
)

// watchInterval is how often it is looked whether those who are inside may be there still.
const watchInterval = 500 * time.Millisecond

// visits are the connections and requests that last, of those whose credential may end. It
// may be used concurrently.
type visits struct {
	mu  sync.Mutex
	all map[*visit]struct{}
}

// visit is one of them. It does not change.
type visit struct {
	p   *auth.Principal
	may func(now *auth.Principal) bool // whether whoever shows the credential now may go on
	end func(why error)
}

// Watch calls end, once and in a goroutine of its own, if the credential of p is worth
// nothing any more, or may is false for what it is worth now. done ends the watch; end may be
// called even then.
func (d *Doors) Watch(p *auth.Principal, may func(now *auth.Principal) bool, end func(why error)) (done func()) {
	if p.Current == nil {
		return func() {}
	}
	v := &visit{p, may, end}
	d.visits.mu.Lock()
	defer d.visits.mu.Unlock()
	if d.visits.all == nil {
		d.visits.all = map[*visit]struct{}{}
	}
	d.visits.all[v] = struct{}{}
	return func() {
		d.visits.mu.Lock()
		defer d.visits.mu.Unlock()
		delete(d.visits.all, v)
	}
}

// Run ends, until ctx ends, what those do who may not any more.
func (d *Doors) Run(ctx context.Context) {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			d.look()
		case <-ctx.Done():
			return
		}
	}
}

// look looks once at all who are inside.
func (d *Doors) look() {
	d.visits.mu.Lock()
	defer d.visits.mu.Unlock()
	for v := range d.visits.all {
		if now := v.p.Current(); now == nil || !v.may(now) {
			delete(d.visits.all, v)
			go v.end(errs.New(errs.Denied, "%s was let in by what has expired, or was revoked or changed since", v.p.Who))
		}
	}
}

// stays has an open export's connection end when its principal may not have the export any
// more, which the host knows by its full name.
func (d *Doors) stays(x *nbd.Export, p *auth.Principal, peer nbd.Peer, full string) {
	writes := !x.ReadOnly
	may := func(now *auth.Principal) bool {
		_, ok := view{now}.out(full)
		return ok && now.May(auth.UseReadOnly) && (!writes || now.May(auth.Use))
	}
	name := x.Name
	done := d.Watch(p, may, func(why error) {
		d.note(p, host(peer.Conn.RemoteAddr().String()), auth.UseReadOnly, "NBD "+name+" goes on", why)
		peer.End(why)
	})
	closed := x.Closed
	x.Closed = func() {
		done()
		if closed != nil {
			closed()
		}
	}
}

// certificate is whom a client's certificate names, which TLS has verified. One that names
// nobody is its authority's word for the whole host.
func (d *Doors) certificate(state *tls.ConnectionState) (*auth.Principal, error) {
	c := state.PeerCertificates[0]
	p, err := auth.Certified(c)
	if err != nil {
		return nil, err
	}
	if p == nil {
		p = &auth.Principal{Who: "certificate of " + c.Subject.String(), Verbs: auth.All}
	}
	p.Until = lasts(state.VerifiedChains)
	var by atomic.Pointer[x509.CertPool] // what it was verified by
	by.Store(d.roots())
	p.Current = func() *auth.Principal {
		roots := d.roots()
		if d.now().After(p.Until) {
			return nil
		}
		if roots != by.Load() {
			if _, err := certs.Verify(state.PeerCertificates, roots); err != nil {
				return nil
			}
			by.Store(roots)
		}
		return p
	}
	return p, nil
}

// lasts is until when the last of the chains of a certificate is good.
func lasts(chains [][]*x509.Certificate) (last time.Time) {
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}

// certified is who shows a certificate to the API.
func (d *Doors) certified(state *tls.ConnectionState) (*auth.Principal, int, error) {
	p, err := d.certificate(state)
	switch {
	case err != nil:
		return nil, http.StatusForbidden, err
	case d.now().After(p.Until): // since the connection began
		return nil, http.StatusUnauthorized, errs.New(errs.Denied, "the certificate of %.100q has expired", state.PeerCertificates[0].Subject.String())
	case p.Tenant != "" && !d.calls.take(p.Who):
		return nil, http.StatusTooManyRequests, tooMany(p)
	}
	return p, 0, nil
}
