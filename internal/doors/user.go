package doors

import (
	"context"
	"net"

	"github.com/paraglide/glide/internal/auth"
)

type connKey struct{}

// ConnContext is for http.Server: it keeps the connection of a request, for who is at its
// other end.
func ConnContext(ctx context.Context, nc net.Conn) context.Context {
	if in, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = in.NetConn()
	}
	return context.WithValue(ctx, connKey{}, nc)
}

// connOf returns the connection of a request; nil if it is not known.
func connOf(ctx context.Context) net.Conn {
	nc, _ := ctx.Value(connKey{}).(net.Conn)
	return nc
}

// user returns who is at the other end of the host's own socket; nil: nobody that the file of
// users has.
func (d *Doors) user(nc net.Conn) *auth.Principal {
	if d.users == nil {
		return auth.Owner()
	}
	id, ok := userOf(nc)
	if !ok {
		return nil
	}
	return d.users.Of(id)
}
