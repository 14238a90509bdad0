// Package doors decides who is let in, and shows each principal what is his. It stands
// between the daemon's listeners and the host.
//
// Who somebody is comes from the first of these that there is:
//
//  1. the socket, if it is bound to a tenant, and perhaps to one volume;
//  2. the certificate of a client that has a verified one;
//  3. the token that he shows;
//  4. the host's own sockets, for those who may open them.
//
// Everybody else is refused. A name that is not for a principal is answered like one that
// does not exist, before anything is looked up.
package doors

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/audit"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/retention"
)

// Doors may be used concurrently.
type Doors struct {
	tokens *auth.Tokens
	common func() string // the token of --token-file; "": there is none
	wrong  *limiter      // wrong tokens, by where they come from
	calls  *limiter      // requests, by token or certificate
	now    func() time.Time
	audit  *audit.Log
	users  *auth.Users           // nil: who may open the host's own socket may do everything
	roots  func() *x509.CertPool // of clients' certificates, as it is now
	visits visits
}

const (
	// wrongPerSecond is how many wrong tokens a source may show before it is not listened
	// to for a while, and callsPerSecond how many requests the holder of a token may make
	// on average.
	wrongPerSecond = 10
	callsPerSecond = 50
	callsAtOnce    = 500
)

// New returns the doors of a daemon. common returns the token that opens everything, "" if
// there is none. users are the users of this machine, nil if all who may open the host's own
// socket own it. roots returns the authority of clients' certificates as it is now, nil if
// there is none. log gets what is done, and what is refused; it may be nil.
func New(tokens *auth.Tokens, common func() string, users *auth.Users, roots func() *x509.CertPool, now func() time.Time, log *audit.Log) *Doors {
	return &Doors{
		tokens: tokens, common: common, users: users, roots: roots, now: now, audit: log,
		wrong: newLimiter(now, wrongPerSecond, wrongPerSecond), calls: newLimiter(now, callsPerSecond, callsAtOnce),
	}
}

// check returns whose token the text is; nil: nobody's.
func (d *Doors) check(text string) *auth.Principal {
	if c := d.common(); c != "" {
		a, b := sha256.Sum256([]byte(text)), sha256.Sum256([]byte(c))
		if subtle.ConstantTimeCompare(a[:], b[:]) == 1 {
			p := &auth.Principal{Who: "token file", Verbs: auth.All}
			p.Current = func() *auth.Principal {
				if d.common() != c {
					return nil
				}
				return p
			}
			return p
		}
	}
	return d.tokens.Check(text)
}

// show is check for somebody at a source, who must not guess for long.
func (d *Doors) show(source, text string) (*auth.Principal, int, error) {
	if !d.wrong.spare(source) {
		return nil, http.StatusTooManyRequests, errs.New(errs.Busy, "too many wrong tokens from %s: wait a moment", source)
	}
	p := d.check(text)
	if p == nil {
		d.wrong.take(source)
		return nil, http.StatusUnauthorized, errs.New(errs.Invalid, "the API wants a token, and this is not it, or not any more: give one of glide token new, or the daemon's --token-file")
	}
	if p.Who != "token file" && !d.calls.take(p.Who) {
		return nil, http.StatusTooManyRequests, tooMany(p)
	}
	return p, 0, nil
}

// API returns who makes a request at an address of the API: bound says whose it is, if it
// is bound, and own that only users of this machine who may open the socket come there.
func (d *Doors) API(bound *auth.Principal, own bool) func(r *http.Request) (*auth.Principal, int, error) {
	return func(r *http.Request) (*auth.Principal, int, error) {
		if bound != nil {
			return bound, 0, nil
		}
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			return d.certified(r.TLS)
		}
		header := r.Header.Get("Authorization")
		if own && header == "" {
			if p := d.user(connOf(r.Context())); p != nil {
				return p, 0, nil
			}
			return nil, http.StatusUnauthorized, errs.New(errs.Denied, "this user of the machine is not in the daemon's --users, and shows no token")
		}
		text, ok := strings.CutPrefix(header, "Bearer ")
		if !ok {
			return nil, http.StatusUnauthorized, errs.New(errs.Invalid, "the API wants a token, and this is not it: give one of glide token new, or the daemon's --token-file, or a certificate of its --tls-ca")
		}
		return d.show(host(r.RemoteAddr), text)
	}
}

// local is where who is on this machine comes from.
const local = "local"

func tooMany(p *auth.Principal) error {
	return errs.New(errs.Busy, "%s makes more than %d requests a second: wait a moment", p.Who, callsPerSecond)
}

// host is where a connection comes from, without the port, which anybody can change.
func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return local
}

// Audit writes down a request of the API: everything that changes something or reads data,
// and what is refused. Sources that are not listened to any more are not in it.
func (d *Doors) Audit(r *http.Request, p *auth.Principal, verb auth.Verbs, err error) {
	kind := errs.KindOf(err)
	quiet := verb == 0 || verb&(auth.Read|auth.Metrics) != 0 || r.URL.Path == "/v1/blocks"
	if err == nil && quiet || err != nil && quiet && p != nil && kind != errs.Denied || p == nil && kind == errs.Busy {
		return
	}
	d.note(p, host(r.RemoteAddr), verb, r.Method+" "+r.URL.Path, err)
}

// note writes down what somebody did, or was refused.
func (d *Doors) note(p *auth.Principal, from string, verb auth.Verbs, what string, err error) {
	e := audit.Entry{Who: "nobody", From: from, Verb: verb.String(), What: what, Outcome: "ok"}
	if p != nil {
		e.Who = p.Who
	}
	if err != nil {
		e.Outcome = errs.KindOf(err).String()
	}
	d.audit.Write(e)
}

// keeper is the Backend of one who may see everything. Tokens are there, too.
type keeper struct {
	api.Backend
	d *Doors
}

// keyKeeper is a keeper of a host that keeps the keys of tenants.
type keyKeeper struct {
	keeper
	api.TenantKeeper
}

var _ api.TokenKeeper = keeper{}

// NewToken implements api.TokenKeeper.
func (k keeper) NewToken(_ context.Context, r api.TokenRequest) (out api.NewToken, err error) {
	verbs, err := auth.ParseVerbs(strings.Join(r.Verbs, ","))
	if err != nil {
		return out, err
	}
	tenant := r.Tenant
	switch {
	case tenant == "":
		return out, errs.New(errs.Invalid, "whose is the token? Name a tenant, or * for all")
	case tenant == "*":
		tenant = ""
	case !validTenant(tenant):
		return out, errs.New(errs.Invalid, "%.60q is no name of a tenant", tenant)
	}
	if (tenant != "" || len(r.Volumes) > 0) && verbs&(auth.Admin|auth.Peer) != 0 {
		return out, errs.New(errs.Invalid, "the verbs admin and peer concern the whole host: they need the tenant * and all volumes")
	}
	for _, p := range r.Volumes {
		if err := auth.CheckPattern(p); err != nil {
			return out, err
		}
	}
	var until time.Time
	if r.Expires != "" {
		lasts, err := retention.ParseDuration(r.Expires)
		if err != nil {
			return out, err
		}
		if lasts <= 0 {
			return out, errs.New(errs.Invalid, "a token that lasts %s has ended already", r.Expires)
		}
		until = k.d.now().Add(lasts).Truncate(time.Second)
	}
	t, text := auth.NewToken(tenant, r.Volumes, verbs, until)
	if err := k.d.tokens.Add(t); err != nil {
		return out, err
	}
	return api.NewToken{Token: shown(t), Secret: text}, nil
}

// Tokens implements api.TokenKeeper.
func (k keeper) Tokens(context.Context) (list []api.Token, err error) {
	for _, t := range k.d.tokens.List() {
		list = append(list, shown(t))
	}
	return list, nil
}

// RevokeToken implements api.TokenKeeper.
func (k keeper) RevokeToken(_ context.Context, id string) error { return k.d.tokens.Revoke(id) }

func shown(t *auth.Token) api.Token {
	x := api.Token{ID: t.ID, Tenant: t.Tenant, Verbs: strings.Split(t.Verbs.String(), ","), Volumes: append([]string{}, t.Volumes...)}
	if x.Tenant == "" {
		x.Tenant = "*"
	}
	if !t.Until.IsZero() {
		x.ExpiresAt = &t.Until
	}
	return x
}
