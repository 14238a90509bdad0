package api

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

// Addr is where something listens: unix:PATH or tcp:HOST:PORT.
type Addr struct {
	Network string // unix or tcp
	Address string // as package net has it
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
		a := Addr{network, rest}
		switch {
		case a.Address == "":
			return Addr{}, errs.New(errs.Invalid, "the address %q lacks the socket's path: unix:PATH", s)
		case strings.ContainsRune(a.Address, 0):
			return Addr{}, errs.New(errs.Invalid, "the address %q has a zero byte in its path", s)
		case len(a.Address) > maxSocketPath:
			return Addr{}, errs.New(errs.Invalid, "the path of the socket %.40q… has %d bytes, and at most %d are possible: choose a shorter one", a.Address, len(a.Address), maxSocketPath)
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
		return Addr{network, rest}, nil
	}
	return Addr{}, errs.New(errs.Invalid, "the address %.100q is neither unix:PATH nor tcp:HOST:PORT", s)
}

// String is what ParseAddr reads.
func (a Addr) String() string { return a.Network + ":" + a.Address }

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
