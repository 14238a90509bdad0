package keys

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// State is what a root is for.
type State string

// The states of roots.
const (
	Current State = "current" // new bytes are sealed with it: the greatest number
	Old     State = "old"     // it opens what was sealed with it
	Retired State = "retired" // its key is gone
)

// hiddenNames is what Names says of a domain whose names are hidden.
const hiddenNames = "hidden"

// contents is the body of a keyring as JSON. The secrets are bytes here, and only here:
// a seal.Key does not go into JSON.
type contents struct {
	Tenant  string       `json:"tenant"`
	Roots   []storedRoot `json:"roots"` // by number
	Conv    []byte       `json:"conv"`
	OldConv [][]byte     `json:"old_conv,omitempty"` // the oldest first
	Name    []byte       `json:"name"`
	Grants  []grant      `json:"grants,omitempty"` // by domain
	Plain   bool         `json:"plain,omitempty"`  // see Ring.Plain
	Public  bool         `json:"public,omitempty"` // see Ring.Public
	Names   string       `json:"names,omitempty"`  // see Ring.Hidden
}

type storedRoot struct {
	Number  uint32    `json:"n"`
	Key     []byte    `json:"key,omitempty"`
	Created time.Time `json:"created"`
	State   State     `json:"state"`
}

// grant is another domain that this one may open.
type grant struct {
	Domain  uint32       `json:"domain"`
	Tenant  string       `json:"tenant,omitempty"`
	Roots   []storedRoot `json:"roots"`
	Conv    []byte       `json:"conv"`
	OldConv [][]byte     `json:"old_conv,omitempty"`
}

// Format prints no secrets.
func (c contents) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// Format prints no secrets.
func (g grant) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// Format prints no secrets.
func (r storedRoot) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// check finds what is wrong with the contents, as text without secrets; "" when nothing is.
func (c *contents) check(domain uint32) string {
	if tenant, _, _ := strings.Cut(c.Tenant, "+"); len(tenant) < 1 || len(tenant) > 100 || len(c.Tenant) > len(tenant)+9 {
		return "it has no tenant, or one with a name of more than 100 bytes"
	}
	if len(c.Conv) != seal.KeySize || len(c.Name) != seal.KeySize {
		return "its secret for ids or for names is missing"
	}
	if c.Names != "" && (c.Names != hiddenNames || c.Public || c.Plain) {
		return fmt.Sprintf("its names are %.20q", c.Names)
	}
	if wrong := cmp.Or(checkConvs(c.OldConv), checkRoots(c.Roots)); wrong != "" {
		return wrong
	}
	last := uint32(0)
	for _, g := range c.Grants {
		if g.Domain <= last || g.Domain == domain || len(g.Conv) != seal.KeySize || len(g.Tenant) > 100 {
			return fmt.Sprintf("a grant of domain %08x is wrong", g.Domain)
		}
		if wrong := cmp.Or(checkConvs(g.OldConv), checkRoots(g.Roots)); wrong != "" {
			return fmt.Sprintf("a grant of domain %08x: %s", g.Domain, wrong)
		}
		last = g.Domain
	}
	return ""
}

// maxConvs bounds how many secrets for ids a domain may have had: each is tried on what does
// not match, and none ever goes.
const maxConvs = 16

func checkConvs(old [][]byte) string {
	if len(old) >= maxConvs || slices.ContainsFunc(old, func(b []byte) bool { return len(b) != seal.KeySize }) {
		return fmt.Sprintf("of its %d older secrets for ids one is none, or there are too many", len(old))
	}
	return ""
}

func checkRoots(roots []storedRoot) string {
	last := uint32(0)
	for i, r := range roots {
		size := seal.KeySize
		switch {
		case r.State == Retired:
			size = 0
		case r.State != Old && r.State != Current:
			return fmt.Sprintf("root %d is %.20q", r.Number, r.State)
		}
		if r.Number <= last || len(r.Key) != size || (r.State == Current) != (i == len(roots)-1) {
			return fmt.Sprintf("root %d is out of order, or has no key, or there is not one current root", r.Number)
		}
		last = r.Number
	}
	if len(roots) == 0 {
		return "it has no roots"
	}
	return ""
}

// Ring is an opened keyring. It does not change.
type Ring struct {
	domain uint32
	number uint64
	hash   [32]byte
	header header
	by     string
	raw    []byte
	c      func() *contents // behind a function, into which nothing that prints looks
}

// Root describes a root without its key.
type Root struct {
	Number  uint32
	Created time.Time
	State   State
}

// Seen is what a host remembers of a keyring, so that it takes no older one. The zero
// Seen is that of a host which saw none.
type Seen struct {
	Number uint64
	Hash   [32]byte // BLAKE3 of the object; zero if it is not known
}

// Domain is the domain whose keyring it is.
func (r *Ring) Domain() uint32 { return r.domain }

// Tenant is the tenant whose domain it is.
func (r *Ring) Tenant() string { return r.c().Tenant }

// Bytes are the object's, which say nothing to who cannot open it (see Saved). They must not
// be changed.
func (r *Ring) Bytes() []byte { return r.raw }

// Seen is what to remember.
func (r *Ring) Seen() Seen { return Seen{r.number, r.hash} }

// Wraps is what the keyring is wrapped for.
func (r *Ring) Wraps() []Wrap { return slices.Clone(r.header.Wraps) }

// OpenedBy is the provider that opened it: "" of one that was just written.
func (r *Ring) OpenedBy() string { return r.by }

// Suite is how what is new in the domain is sealed.
func (r *Ring) Suite() seal.Suite { return r.header.Suite }

// Plain tells whether the tenant is being moved into the domain: what it stored before is
// read as it is. Only a keyring may say so. A store that could would have plain text taken
// for what the tenant wrote.
func (r *Ring) Plain() bool { return r.c().Plain }

// Public tells whether other tenants may fork what the tenant has. Only a keyring may say so:
// a store that could would open one tenant's volumes to others.
func (r *Ring) Public() bool { return r.c().Public }

// Hidden tells whether the keys of objects have the tenant's names of volumes hidden (see
// seal.Domain.HideName). It never changes, and only a keyring may say so: a store that could
// would have names told to it.
func (r *Ring) Hidden() bool { return r.c().Names == hiddenNames }

// Grant names another domain that this one may open, and the tenant whose it is.
type Grant struct {
	Domain uint32
	Tenant string
}

// Grants are the other domains that this one may open.
func (r *Ring) Grants() (list []Grant) {
	for _, g := range r.c().Grants {
		list = append(list, Grant{g.Domain, g.Tenant})
	}
	return list
}

// Lent are the keys of the domain for those to whom it is granted, who only read.
func (r *Ring) Lent() (*seal.Domain, error) {
	return keysOf(seal.Secrets{Domain: r.domain, Suite: r.header.Suite, Granted: true}, r.c().Roots, r.c().Conv, r.c().OldConv)
}

// Roots are the roots by number, the current one last.
func (r *Ring) Roots() []Root {
	var roots []Root
	for _, s := range r.c().Roots {
		roots = append(roots, Root{s.Number, s.Created, s.State})
	}
	return roots
}

// String names the keyring, without secrets.
func (r *Ring) String() string { return fmt.Sprintf("keyring %d of domain %08x", r.number, r.domain) }

// Format prints String for every verb.
func (r *Ring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// MarshalJSON is String.
func (r *Ring) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", r.String()), nil }

// Keys are the keys of the domain.
func (r *Ring) Keys() (*seal.Domain, error) {
	s := seal.Secrets{Domain: r.domain, Suite: r.header.Suite}
	var err error
	if s.Name, err = seal.KeyOf(r.c().Name); err != nil {
		return nil, err
	}
	return keysOf(s, r.c().Roots, r.c().Conv, r.c().OldConv)
}

// Granted are the keys of another domain, which this one may open. Without a grant of it
// the error is of kind errs.Corrupt: a map that names it is damaged.
func (r *Ring) Granted(domain uint32) (*seal.Domain, error) {
	for _, g := range r.c().Grants {
		if g.Domain == domain {
			return keysOf(seal.Secrets{Domain: domain, Suite: r.header.Suite, Granted: true}, g.Roots, g.Conv, g.OldConv)
		}
	}
	return nil, errs.New(errs.Corrupt, "domain %08x is not open to tenant %s, whose keyring has no grant of it", domain, r.c().Tenant)
}

func keysOf(s seal.Secrets, roots []storedRoot, conv []byte, older [][]byte) (_ *seal.Domain, err error) {
	s.Roots = map[uint32]seal.Key{}
	for _, root := range roots {
		if root.State == Retired {
			s.Retired = append(s.Retired, root.Number)
			continue
		}
		if s.Roots[root.Number], err = seal.KeyOf(root.Key); err != nil {
			return nil, err
		}
		s.Current = root.Number
	}
	if s.Conv, err = seal.KeyOf(conv); err != nil {
		return nil, err
	}
	for _, old := range older {
		k, err := seal.KeyOf(old)
		if err != nil {
			return nil, err
		}
		s.OldConv = append(s.OldConv, k)
	}
	return seal.New(s)
}

// clone is a copy that can be changed.
func (c *contents) clone() *contents {
	out := *c
	out.Roots, out.Grants, out.OldConv = slices.Clone(c.Roots), slices.Clone(c.Grants), slices.Clone(c.OldConv)
	return &out
}

// rotate begins a new root.
func (c *contents) rotate(now time.Time) {
	next := storedRoot{Number: 1, Key: seal.NewKey().Append(nil), Created: now.UTC(), State: Current}
	if i := len(c.Roots) - 1; i >= 0 {
		c.Roots[i].State = Old
		next.Number = c.Roots[i].Number + 1
	}
	c.Roots = append(c.Roots, next)
}

// renew begins another secret for ids, and with it a new root: who meets an id that it lacks
// the secret for meets the root first, and looks for the newest keyring.
func (c *contents) renew(now time.Time) error {
	if len(c.OldConv)+1 >= maxConvs {
		return errs.New(errs.Invalid, "its secret for ids was renewed %d times, which is the limit", len(c.OldConv))
	}
	c.OldConv, c.Conv = append(c.OldConv, c.Conv), seal.NewKey().Append(nil)
	c.rotate(now)
	return nil
}

// retire drops the key of a root. It reports whether that is new.
func (c *contents) retire(n uint32) (bool, error) {
	i := slices.IndexFunc(c.Roots, func(r storedRoot) bool { return r.Number == n })
	if i < 0 {
		return false, errs.New(errs.Invalid, "there is no root %d", n)
	}
	switch c.Roots[i].State {
	case Current:
		return false, errs.New(errs.Invalid, "root %d is in use; rotate first, and seal what it sealed again", n)
	case Retired:
		return false, nil
	}
	c.Roots[i].Key, c.Roots[i].State = nil, Retired
	return true, nil
}

// opens tells whether a grant has the secrets of another one of the same domain.
func (g *grant) opens(other *grant) bool {
	return bytes.Equal(g.Conv, other.Conv) && slices.EqualFunc(g.OldConv, other.OldConv, bytes.Equal) && slices.EqualFunc(g.Roots, other.Roots, func(a, b storedRoot) bool {
		return a.Number == b.Number && a.State == b.State && bytes.Equal(a.Key, b.Key)
	})
}

// allow adds, or replaces, a grant of another domain. It reports whether that is new.
func (c *contents) allow(g grant) bool {
	i, there := slices.BinarySearchFunc(c.Grants, g.Domain, func(old grant, d uint32) int { return cmp.Compare(old.Domain, d) })
	if there && c.Grants[i].opens(&g) {
		return false
	}
	c.Grants = slices.DeleteFunc(c.Grants, func(old grant) bool { return old.Domain == g.Domain })
	c.Grants = append(c.Grants, g)
	slices.SortFunc(c.Grants, func(a, b grant) int { return cmp.Compare(a.Domain, b.Domain) })
	return true
}

// follows reports whether c can come after an earlier keyring of the domain: who cannot
// open that one cannot know its secrets. Hidden names last as long as the domain, so their
// secret is in all of its keyrings, and so is that they are hidden.
func (c *contents) follows(earlier *contents) bool {
	if !bytes.Equal(c.Name, earlier.Name) || c.Names != earlier.Names {
		return false
	}
	convs := append(slices.Clone(c.OldConv), c.Conv)
	for _, was := range append(slices.Clone(earlier.OldConv), earlier.Conv) {
		if !slices.ContainsFunc(convs, func(b []byte) bool { return bytes.Equal(b, was) }) {
			return false
		}
	}
	for _, was := range earlier.Roots {
		i, ok := slices.BinarySearchFunc(c.Roots, was.Number, func(r storedRoot, n uint32) int { return cmp.Compare(r.Number, n) })
		if !ok || c.Roots[i].State != Retired && !bytes.Equal(c.Roots[i].Key, was.Key) {
			return false
		}
	}
	return true
}
