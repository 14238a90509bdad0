package server

import (
	"net/netip"
	"slices"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/host"
)

// peers reaches other hosts. Their addresses come from the store, where anyone with
// write access could have put them. So a host with certificates speaks TLS with them, and
// says nothing to anybody but the host that it means; one without sends its token only to
// addresses that its operator has allowed.
type peers struct {
	allow []netip.Prefix
	token func() string
	certs func() *certs.Set
}

// permit refuses addresses that are neither this machine's own nor allowed.
func (p peers) permit(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() || slices.ContainsFunc(p.allow, func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return nil
	}
	return errs.New(errs.Unavailable, "%s is no address that this host may send its token to: if the host there is yours, add it to --peers-allow", addr)
}

// dial returns a host, at the address that it advertises.
func (p peers) dial(addr, id string) (host.Peer, error) {
	if p.certs().Mutual() {
		return client.New(addr, client.Options{TLS: certs.Peer(p.certs, id)})
	}
	return client.New(addr, client.Options{Token: p.token(), Permit: p.permit})
}
