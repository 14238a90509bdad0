package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/errs"
)

// listeners are where the daemon listens. TCP ports are opened first, because
// their numbers may not be known before. Unix sockets may be left over from another
// daemon on the directory, so they are opened when that daemon is known to be gone.
type listeners struct{ api, nbd listening }

// listening is one protocol's part of them.
type listening struct {
	open    []net.Listener
	own     []*net.UnixListener // unix sockets that we created; not in open
	sockets []api.Addr          // unix sockets to create
	addrs   []api.Addr          // all, in the order of the settings
}

// openListeners takes over systemd's sockets, and opens the TCP ports.
func openListeners(c *config.Config) (ls *listeners, err error) {
	ls = &listeners{}
	defer func() {
		if err != nil {
			ls.close()
		}
	}()
	given, err := activation.ListenersWithNames()
	if err != nil {
		return ls, fmt.Errorf("the sockets from systemd: %w", err)
	}
	for name := range given {
		if name != "api" && name != "nbd" {
			return ls, errs.New(errs.Invalid, "systemd gave a socket named %q: set FileDescriptorName=api or FileDescriptorName=nbd in its unit", name)
		}
	}
	if err := ls.api.take(given["api"], c.API); err != nil {
		return ls, err
	}
	for _, a := range ls.api.addrs { // including systemd's
		if err := c.Guarded(a); err != nil {
			return ls, err
		}
	}
	return ls, ls.nbd.take(given["nbd"], c.NBD)
}

// take takes the given listeners over. If there are none, it opens those asked for.
func (l *listening) take(given []net.Listener, asked []api.Addr) error {
	if len(given) > 0 {
		l.open = given
		for _, g := range given {
			l.addrs = append(l.addrs, addrOf(g))
		}
		return nil
	}
	for _, a := range asked {
		if a.Network == "unix" {
			l.sockets = append(l.sockets, a)
		} else {
			tcp, err := net.Listen("tcp", a.Address)
			if err != nil {
				return errs.New(errs.Unavailable, "cannot listen at %s: %w", a, err)
			}
			l.open = append(l.open, tcp)
			a = addrOf(tcp)
		}
		l.addrs = append(l.addrs, a)
	}
	return nil
}

// openSockets creates the unix sockets.
func (ls *listeners) openSockets() error {
	for _, l := range []*listening{&ls.api, &ls.nbd} {
		for _, a := range l.sockets {
			unix, err := listenUnix(a.Address)
			if err != nil {
				return err
			}
			l.own = append(l.own, unix)
		}
	}
	return nil
}

// socketMode lets the daemon's user and group connect.
const socketMode = 0o660

// listenUnix creates a unix socket. It replaces a socket file that nobody listens
// at any more.
func listenUnix(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		l, err = net.ListenUnix("unix", addr)
	}
	if err == nil {
		if err = os.Chmod(path, socketMode); err != nil {
			_ = l.Close()
		}
	}
	if err != nil {
		return nil, errs.New(errs.Unavailable, "cannot listen at unix:%s: %w", path, err)
	}
	return l, nil
}

func removeStale(path string) error {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != os.ModeSocket {
		return errs.New(errs.Exists, "%s exists and is not a socket: remove it, or choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(errs.New(errs.Busy, "somebody listens at %s: is another glide serve running?", path), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return errs.New(errs.Busy, "%s exists, and it is unknown whether somebody listens at it: %w", path, err)
	}
	return os.Remove(path)
}

func (ls *listeners) close() {
	for _, l := range slices.Concat(ls.api.open, ls.nbd.open) {
		_ = l.Close() // most were closed by their servers
	}
	for _, l := range slices.Concat(ls.api.own, ls.nbd.own) {
		_ = l.Close()
	}
}

func addrOf(l net.Listener) api.Addr {
	return api.Addr{Network: l.Addr().Network(), Address: l.Addr().String()}
}

// unbound returns the addresses that are bound to nobody: those that others are told of.
func unbound(addrs []api.Addr) []api.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a api.Addr) bool { return a.Tenant != "" })
}

// boundTo is the principal at an address that is bound; nil: it is not.
func boundTo(a api.Addr) *auth.Principal {
	if a.Tenant == "" {
		return nil
	}
	return auth.Bound(a.Tenant, a.Volume)
}

func texts(addrs []api.Addr) []string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return list
}
