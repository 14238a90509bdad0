// Package auth says who may do what. A Principal is whoever is behind a connection or a
// request: everybody at the host's own socket, a tenant at a socket that is bound to it, or
// the holder of a token. docs/security.md describes the doors.
package auth

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// Verbs is a set of what a principal may do.
type Verbs uint8

// The verbs. Each stands for itself alone, except that Use includes UseReadOnly, and that
// who may use or manage a volume may also see it.
const (
	Read        Verbs = 1 << iota // see volumes, their history and what they cost
	UseReadOnly                   // read their data
	Use                           // read and write their data
	Manage                        // create, change, fork and remove volumes
	Metrics                       // read the metrics
	Peer                          // ask for what other hosts of the store ask for
	Admin                         // the host and the store themselves: collection, scrubs, hosts, tokens

	All = Read | UseReadOnly | Use | Manage | Metrics | Peer | Admin
)

// names are in the order of the verbs.
var names = []string{"read", "use-ro", "use", "manage", "metrics", "peer", "admin"}

// String lists the verbs, with commas between them, as ParseVerbs reads them.
func (v Verbs) String() string {
	var list []string
	for i, n := range names {
		if v&(1<<i) != 0 {
			list = append(list, n)
		}
	}
	return strings.Join(list, ",")
}

// ParseVerbs reads verbs with commas between them. Unknown ones, and none, are errs.Invalid.
func ParseVerbs(s string) (v Verbs, err error) {
	for word := range strings.SplitSeq(s, ",") {
		i := slices.Index(names, strings.TrimSpace(word))
		if i < 0 {
			return 0, errs.New(errs.Invalid, "%.60q is no verb: there are %s", word, strings.Join(names, ", "))
		}
		v |= 1 << i
	}
	return v, nil
}

// complete adds what verbs include.
func (v Verbs) complete() Verbs {
	if v&Use != 0 {
		v |= UseReadOnly
	}
	if v&(UseReadOnly|Manage) != 0 {
		v |= Read
	}
	return v
}

// Principal is who asks. It does not change.
type Principal struct {
	// Who names it in logs, such as "token 3f9ab2c1".
	Who string
	// Tenant is the one whose volumes it may see; "": all.
	Tenant string
	// Volumes are patterns (path.Match) of the names, without the tenant, of the volumes
	// that it may see. None: all.
	Volumes []string
	Verbs   Verbs
	// Until is when it ends; the zero time: never.
	Until time.Time
	// Current returns who shows the same credential now; nil: it is worth nothing any more.
	// Any goroutine may call it. A principal without one stays what it is.
	Current func() *Principal
}

// Owner is the principal who may do everything: the one at a socket of the host that is
// bound to nobody.
func Owner() *Principal { return &Principal{Who: "local", Verbs: All} }

// Bound is the principal at a socket that is bound to a tenant, and to one volume of it
// unless that is "".
func Bound(tenant, volume string) *Principal {
	p := &Principal{Who: "socket of " + tenant, Tenant: tenant, Verbs: Read | Use | Manage}
	if volume != "" {
		p.Who += "/" + volume
		p.Volumes = []string{volume}
	}
	return p
}

// May tells whether the principal has all of the verbs.
func (p *Principal) May(v Verbs) bool { return p.Verbs.complete()&v == v }

// MayAny tells whether the principal has one of the verbs, or none is needed.
func (p *Principal) MayAny(v Verbs) bool { return v == 0 || p.Verbs.complete()&v != 0 }

// Unlimited tells whether the principal may see every volume.
func (p *Principal) Unlimited() bool { return p.Tenant == "" && len(p.Volumes) == 0 }

// Sees tells whether the principal may know of a volume.
func (p *Principal) Sees(tenant, volume string) bool {
	if p.Tenant != "" && tenant != p.Tenant {
		return false
	}
	return len(p.Volumes) == 0 || slices.ContainsFunc(p.Volumes, func(pattern string) bool {
		ok, err := path.Match(pattern, volume)
		return ok && err == nil
	})
}

// CheckPattern is an error if a pattern of names cannot match any.
func CheckPattern(pattern string) error {
	if _, err := path.Match(pattern, "x"); err != nil || pattern == "" || strings.ContainsAny(pattern, "/, \t\r\n") {
		return errs.New(errs.Invalid, "%.60q is no pattern of volume names, such as web or ci-*", pattern)
	}
	return nil
}

type key struct{}

// With returns a context that says who asks.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, key{}, p)
}

// From returns who asks; nil if the context does not say.
func From(ctx context.Context) *Principal {
	p, _ := ctx.Value(key{}).(*Principal)
	return p
}
