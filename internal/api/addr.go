package api

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

// Addr is where something listens: unix:PATH or tcp:HOST:PORT. A socket can be bound to a
// tenant, or to one volume: unix:PATH?tenant=T&volume=V.
type Addr struct {
	Network string // unix or tcp
	Address string // as package net has it

	Tenant, Volume string // whom a socket is bound to; "": not
}

// maxSocketPath is the longest path of a unix socket, in bytes: the kernel's
// 108 less a final zero.
const maxSocketPath = 107

// ParseAddr reads unix:PATH or tcp:HOST:PORT.
func ParseAddr(s string) (Addr, error) {
	network, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && network == "unix":
		for strings.HasPrefix(rest, "//") { // written as a URL
			rest = rest[1:]
		}
		path, query, bound := strings.Cut(rest, "?")
		a := Addr{Network: network, Address: path}
		switch {
		case a.Address == "":
			return Addr{}, errs.New(errs.Invalid, "the address %q lacks the socket's path: unix:PATH", s)
		case strings.ContainsRune(a.Address, 0):
			return Addr{}, errs.New(errs.Invalid, "the address %q has a zero byte in its path", s)
		case len(a.Address) > maxSocketPath:
			return Addr{}, errs.New(errs.Invalid, "the path of the socket %.40q… has %d bytes, and at most %d are possible: choose a shorter one", a.Address, len(a.Address), maxSocketPath)
		case bound:
			return a, a.bind(query)
		}
		return a, nil
	case ok && network == "tcp":
		rest = strings.TrimPrefix(rest, "//")
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			return Addr{}, errs.New(errs.Invalid, "the address %.100q is not of the form tcp:HOST:PORT", s)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || strings.ContainsAny(host, "/ \x00") {
			return Addr{}, errs.New(errs.Invalid, "the address %.100q is not of the form tcp:HOST:PORT, with a port of 0 to 65535", s)
		}
		return Addr{Network: network, Address: rest}, nil
	}
	return Addr{}, errs.New(errs.Invalid, "the address %.100q is neither unix:PATH nor tcp:HOST:PORT", s)
}

// bind reads whom a socket is bound to.
func (a *Addr) bind(query string) error {
	q, err := url.ParseQuery(query)
	if err != nil {
		return errs.New(errs.Invalid, "unix:%s?%.100s: %w", a.Address, query, err)
	}
	for key, values := range q {
		if key != "tenant" && key != "volume" || len(values) != 1 || !validName.MatchString(values[0]) {
			return errs.New(errs.Invalid, "unix:%s?%.100s: a socket is bound by tenant=NAME, or tenant=NAME&volume=NAME", a.Address, query)
		}
	}
	a.Tenant, a.Volume = q.Get("tenant"), q.Get("volume")
	if a.Tenant == "" {
		return errs.New(errs.Invalid, "unix:%s?%.100s: whose volume is it? Add tenant=NAME", a.Address, query)
	}
	return nil
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// String is what ParseAddr reads.
func (a Addr) String() string {
	s := a.Network + ":" + a.Address
	if a.Tenant != "" {
		s += "?tenant=" + a.Tenant
	}
	if a.Volume != "" {
		s += "&volume=" + a.Volume
	}
	return s
}

// Local tells whether only this machine can reach the address.
func (a Addr) Local() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Any tells whether the address stands for all of the machine's own, and so is
// none that another machine could connect to.
func (a Addr) Any() bool {
	if a.Network == "unix" {
		return false
	}
	host, _, err := net.SplitHostPort(a.Address)
	ip, perr := netip.ParseAddr(host)
	return err == nil && (host == "" || perr == nil && ip.IsUnspecified())
}
