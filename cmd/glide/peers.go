package main

import (
	"context"
	"net/netip"
	"slices"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/ownership"
)

// peers reaches other hosts. Their addresses come from the store, where anyone with
// write access could have put them. So this host's token is sent only to addresses
// that its operator has allowed.
type peers struct {
	allow []netip.Prefix
	token func() string
}

// permit refuses addresses that are neither this machine's own nor allowed.
func (p peers) permit(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() || slices.ContainsFunc(p.allow, func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return nil
	}
	return errs.New(errs.Unavailable, "%s is no address that this host may send its token to: if the host there is yours, add it to --peers-allow", addr)
}

// dial returns another host, at the address that it advertises.
func (p peers) dial(addr string) ownership.Peer {
	c, err := client.New(addr, client.Options{Token: p.token(), Permit: p.permit})
	if err != nil {
		return noPeer{err}
	}
	return oncePeer{c}
}

// oncePeer is a peer for one request: it keeps no connection.
type oncePeer struct{ c *client.Client }

// Release implements ownership.Peer.
func (p oncePeer) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	defer p.c.Close()
	return p.c.Release(ctx, name, r)
}

// Host implements ownership.Peer.
func (p oncePeer) Host(ctx context.Context) (api.Host, error) {
	defer p.c.Close()
	return p.c.Host(ctx)
}

// noPeer is a peer with an invalid address.
type noPeer struct{ err error }

// Release implements ownership.Peer.
func (p noPeer) Release(context.Context, string, api.ReleaseRequest) (api.Volume, error) {
	return api.Volume{}, errs.New(errs.Unavailable, "the owner's address: %w", p.err)
}

// Host implements ownership.Peer.
func (p noPeer) Host(context.Context) (api.Host, error) {
	return api.Host{}, errs.New(errs.Unavailable, "the owner's address: %w", p.err)
}
