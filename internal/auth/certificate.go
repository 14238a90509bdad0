package auth

import (
	"crypto/x509"
	"net/url"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

// Certified returns whom a client's certificate names, which was verified before: it has
// one URI among its subject's alternative names,
//
//	glide://tenant/TENANT               all volumes of a tenant
//	glide://tenant/TENANT/volume/GLOB   those whose names match
//	glide://host/ID                     another host of the store: what hosts ask each other
//
// nil is a certificate without such a URI: its authority vouches for the whole host. One
// that names nobody, or two, is errs.Denied.
func Certified(c *x509.Certificate) (*Principal, error) {
	var found *Principal
	for _, u := range c.URIs {
		if u.Scheme != "glide" {
			continue
		}
		p, err := named(u)
		if err == nil && found != nil {
			err = errs.New(errs.Denied, "it names two")
		}
		if err != nil {
			return nil, errs.New(errs.Denied, "the certificate of %.100q does not say whose it is: %w: it wants one URI glide://tenant/TENANT[/volume/GLOB] or glide://host/ID", c.Subject.String(), err)
		}
		found = p
	}
	return found, nil
}

func named(u *url.URL) (*Principal, error) {
	part := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	ok := u.RawQuery == "" && u.Fragment == "" && u.User == nil && part[0] != "" && part[0] != anything
	tenant := ok && u.Host == "tenant"
	switch {
	case ok && u.Host == "host" && len(part) == 1:
		return &Principal{Who: u.String(), Verbs: Peer}, nil
	case tenant && len(part) == 1:
		return &Principal{Who: u.String(), Tenant: part[0], Verbs: Read | Use | Manage}, nil
	case tenant && len(part) == 3 && part[1] == "volume" && CheckPattern(part[2]) == nil:
		return &Principal{Who: u.String(), Tenant: part[0], Volumes: part[2:], Verbs: Read | Use | Manage}, nil
	}
	return nil, errs.New(errs.Denied, "%.100q names nobody", u)
}

// HostURI is what the certificate of a host has among its subject's alternative names.
func HostURI(id string) string {
	return (&url.URL{Scheme: "glide", Host: "host", Path: "/" + id}).String()
}

// IsHost tells whether a certificate, which was verified before, is that of a host: this
// one, and no other.
func IsHost(c *x509.Certificate, id string) bool {
	p, err := Certified(c)
	return err == nil && p != nil && id != "" && p.Who == HostURI(id)
}
