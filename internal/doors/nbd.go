package doors

import (
	"cmp"
	"strings"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/nbd"
)

func validTenant(name string) bool { return commitlog.ValidName(name) }

// Exports returns the exports for the clients of an address: bound says whose it is, if it
// is bound, and own that only users of this machine who may open the socket come there.
func (d *Doors) Exports(all nbd.Exporter, bound *auth.Principal, own bool) nbd.Exporter {
	if bound != nil {
		return &exports{all: all, view: view{bound}, d: d, from: local}
	}
	return &entrance{d: d, all: all, own: own}
}

// exports are those of one principal.
type exports struct {
	all nbd.Exporter
	view
	d    *Doors
	from string
	peer nbd.Peer        // none at a socket that is bound
	also *auth.Principal // whose certificate must stay good, too; nil: nobody's
}

// name returns the name of an export as the host knows it. A socket that is bound to one
// volume has it for its default export.
func (e *exports) name(name string) (string, error) {
	if name == "" && len(e.p.Volumes) == 1 && !strings.ContainsAny(e.p.Volumes[0], `*?[\`) {
		name = e.p.Volumes[0]
	}
	if !e.p.May(auth.UseReadOnly) {
		return "", errs.New(errs.Denied, "this needs the verb %s, and %s has %s", auth.UseReadOnly, e.p.Who, e.p.Verbs)
	}
	return e.in(name)
}

// limited takes the right to write from an export if the principal has not got it.
func (e *exports) limited(x *nbd.Export, err error) (*nbd.Export, error) {
	if err != nil {
		return nil, err
	}
	x.Name = e.say(x.Name)
	x.ReadOnly = x.ReadOnly || !e.p.May(auth.Use)
	return x, nil
}

// Open implements nbd.Exporter.
func (e *exports) Open(name string) (x *nbd.Export, err error) {
	defer func() { e.d.opened(e.p, e.from, name, x, err) }()
	full, err := e.name(name)
	if err != nil {
		return nil, err
	}
	if x, err = e.limited(e.all.Open(full)); err != nil {
		return nil, err
	}
	for _, p := range []*auth.Principal{e.p, e.also} {
		if p != nil {
			e.d.stays(x, p, e.peer, full)
		}
	}
	return x, nil
}

// opened writes down that an export was opened, or refused.
func (d *Doors) opened(p *auth.Principal, from, name string, x *nbd.Export, err error) {
	verb := auth.Use
	if x != nil && x.ReadOnly {
		verb = auth.UseReadOnly
	}
	if p == nil && errs.KindOf(err) == errs.Busy && err != nil {
		return // a source that is not listened to any more
	}
	d.note(p, from, verb, "NBD "+name, err)
}

// Describe implements nbd.Exporter.
func (e *exports) Describe(name string) (*nbd.Export, error) {
	name, err := e.name(name)
	if err != nil {
		return nil, err
	}
	return e.limited(e.all.Describe(name))
}

// List implements nbd.Exporter.
func (e *exports) List() (out []string) {
	if !e.p.May(auth.UseReadOnly) {
		return nil
	}
	for _, name := range e.all.List() {
		if plain, ok := e.out(name); ok {
			out = append(out, plain)
		}
	}
	return out
}

// entrance is where clients say who they are: with a certificate, or with a token at the
// end of an export's name, after a number sign. It is an nbd.PerPeer.
type entrance struct {
	d   *Doors
	all nbd.Exporter
	own bool // who comes here may open the host's own socket

	// Once For has been called:
	peer  nbd.Peer
	cert  *auth.Principal // whom the client's certificate names; nil: nobody
	whole *auth.Principal // whom its authority vouches for, for the whole host; nil: nobody
	user  *auth.Principal // the user of this machine at the host's own socket; nil: nobody
}

// For implements nbd.PerPeer.
func (e *entrance) For(p nbd.Peer) (nbd.Exporter, error) {
	mine := &entrance{d: e.d, all: e.all, own: e.own, peer: p}
	if p.TLS != nil && len(p.TLS.VerifiedChains) > 0 {
		who, err := e.d.certificate(p.TLS)
		if err != nil {
			return nil, err
		}
		if who.Verbs == auth.All {
			mine.whole = who
		} else {
			mine.cert = who
		}
	}
	if e.own {
		mine.user = e.d.user(p.Conn)
	}
	return mine, nil
}

// anybody tells whether a client needs to show nothing: at the host's own socket unless users
// are told apart, with a certificate that an authority gave for the whole host, and over TCP
// as long as nobody has begun to use tokens.
func (e *entrance) anybody() bool {
	if e.own {
		return e.user != nil && e.user.Unlimited() && e.user.May(auth.Use)
	}
	return e.whole != nil || e.cert == nil && e.d.tokens.None()
}

// of returns the exports of who asks for an export, and its name without the token.
func (e *entrance) of(name string) (nbd.Exporter, string, error) {
	name, token, shown := strings.Cut(name, "#")
	switch {
	case e.cert != nil:
		return e.exports(e.cert), name, nil
	case !shown && e.anybody():
		return e.all, name, nil
	case !shown && e.user != nil:
		return e.exports(e.user), name, nil
	case !shown:
		return nil, name, errs.New(errs.Denied, "a token is wanted at the end of the export's name: NAME#TOKEN")
	case !e.own && e.peer.TLS == nil:
		return nil, name, errs.New(errs.Denied, "a token is not taken over a connection that others can read: use TLS, and revoke this token, which they may have read")
	}
	p, _, err := e.d.show(e.from(), token)
	if err != nil {
		return nil, name, err
	}
	return e.exports(p), name, nil
}

// exports are those of a principal that the client has shown itself to be.
func (e *entrance) exports(p *auth.Principal) *exports {
	return &exports{all: e.all, view: view{p}, d: e.d, from: e.from(), peer: e.peer, also: e.whole}
}

func (e *entrance) from() string { return host(e.peer.Conn.RemoteAddr().String()) }

// Open implements nbd.Exporter.
func (e *entrance) Open(name string) (*nbd.Export, error) {
	x, name, err := e.of(name)
	if err != nil {
		e.d.opened(nil, e.from(), name, nil, err)
		return nil, err
	}
	if x != e.all {
		return x.Open(name)
	}
	out, err := x.Open(name)
	p := cmp.Or(e.whole, e.user, &auth.Principal{Who: "anybody"})
	if err == nil {
		e.d.stays(out, p, e.peer, out.Name)
	}
	e.d.opened(p, e.from(), name, out, err)
	return out, err
}

// Describe implements nbd.Exporter.
func (e *entrance) Describe(name string) (*nbd.Export, error) {
	x, name, err := e.of(name)
	if err != nil {
		return nil, err
	}
	return x.Describe(name)
}

// List implements nbd.Exporter.
func (e *entrance) List() []string {
	switch {
	case e.cert != nil:
		return e.exports(e.cert).List()
	case e.anybody():
		return e.all.List()
	case e.user != nil:
		return e.exports(e.user).List()
	}
	return nil // who asks has not said who he is
}
