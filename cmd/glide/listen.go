package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/problem"
	"github.com/paraglide/glide/nbd"
)

// listeners are where the daemon listens. TCP ports are taken first, as their
// numbers may not be known before; unix sockets, which may have been left behind
// by another daemon on the directory, only when that is known to be gone.
type listeners struct {
	api, nbd listening
	log      *slog.Logger // of refused connections; may be nil
}

// listening is one protocol's part of them.
type listening struct {
	open    []net.Listener
	sockets []api.Addr // unix sockets to be made
	addrs   []api.Addr // all, in the order in which they were asked for
}

// openListeners takes over systemd's sockets, and the TCP ports.
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
			return ls, problem.New(problem.Invalid, "systemd gave a socket named %q: set FileDescriptorName=api or FileDescriptorName=nbd in its unit", name)
		}
	}
	if err := ls.api.take(given["api"], c.API); err != nil {
		return ls, err
	}
	for _, a := range ls.api.addrs { // also those that systemd gave
		if !a.Local() && c.TokenFile == "" {
			return ls, problem.New(problem.Invalid, "the API at %s can be reached from other machines: it needs --token-file", a)
		}
	}
	return ls, ls.nbd.take(given["nbd"], c.NBD)
}

// take takes the given listeners over, or if there are none opens those asked for.
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
				return problem.New(problem.Unavailable, "cannot listen at %s: %w", a, err)
			}
			l.open = append(l.open, tcp)
			a = addrOf(tcp)
		}
		l.addrs = append(l.addrs, a)
	}
	return nil
}

// openSockets makes the unix sockets.
func (ls *listeners) openSockets() error {
	for _, l := range []*listening{&ls.api, &ls.nbd} {
		for _, a := range l.sockets {
			unix, err := listenUnix(a.Address)
			if err != nil {
				return err
			}
			l.open = append(l.open, unix)
		}
	}
	ls.guardAPI()
	return nil
}

// socketMode lets the daemon's user and group connect.
const socketMode = 0o660

// listenUnix makes a unix socket. A file that nobody listens at any more is
// replaced.
func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err == nil {
		err = os.Chmod(path, socketMode)
	}
	if err != nil {
		return nil, problem.New(problem.Unavailable, "cannot listen at unix:%s: %w", path, err)
	}
	return l, nil
}

func removeStale(path string) error {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != os.ModeSocket {
		return problem.New(problem.Exists, "%s exists and is no socket: remove it, or choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(problem.New(problem.Busy, "somebody listens at %s: is another glide serve running?", path), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return problem.New(problem.Busy, "%s exists, and whether somebody listens at it cannot be found out: %w", path, err)
	}
	return os.Remove(path)
}

func (ls *listeners) close() {
	for _, l := range slices.Concat(ls.api.open, ls.nbd.open) {
		_ = l.Close() // most are closed already, by who served them
	}
}

func addrOf(l net.Listener) api.Addr {
	return api.Addr{Network: l.Addr().Network(), Address: l.Addr().String()}
}

func texts(addrs []api.Addr) []string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return list
}

// nbdTLS is how NBD connections are encrypted.
func nbdTLS(c *config.Config) (nbd.TLSMode, *tls.Config, error) {
	if c.TLS == "off" {
		return nbd.TLSOff, nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nbd.TLSOff, nil, problem.New(problem.Invalid, "the certificate and key of TLS: %w", err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if c.TLSCA != "" {
		pem, err := os.ReadFile(c.TLSCA)
		if err != nil {
			return nbd.TLSOff, nil, problem.New(problem.Invalid, "the authority of TLS: %w", err)
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nbd.TLSOff, nil, problem.New(problem.Invalid, "the authority of TLS: %s holds no certificate in PEM", c.TLSCA)
		}
		t.ClientAuth = tls.RequireAndVerifyClientCert
		// In TLS 1.3 Go asks for certificates without the RSA signatures that most
		// authorities make, but for an extension that GnuTLS does not look at: QEMU
		// and libnbd would send none.
		t.MaxVersion = tls.VersionTLS12
	}
	if c.TLS == "require" {
		return nbd.TLSRequire, t, nil
	}
	return nbd.TLSAllow, t, nil
}
