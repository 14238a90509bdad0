package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/listener"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/reload"
	"github.com/paraglide/glide/nbd"
)

// live holds the settings, and the files that they name, that may change while
// the daemon runs.
type live struct {
	load  func() (*config.Config, error) // reads the settings again
	first *config.Config
	level *slog.LevelVar
	log   *slog.Logger
	files *reload.Watcher

	token  atomic.Pointer[string]
	tokens *auth.Tokens
	users  *auth.Users               // nil: no file
	certs  atomic.Pointer[certs.Set] // nil: TLS is off
	warned string                    // the settings that need a restart, as last logged; under the Watcher's lock
}

// newLive reads the files that the settings name.
func newLive(c *config.Config, load func() (*config.Config, error), level *slog.LevelVar, log *slog.Logger) (*live, error) {
	l := &live{load: load, first: c, level: level, log: log, files: reload.New(log)}
	none := ""
	l.token.Store(&none)
	if c.TokenFile != "" {
		if err := l.files.Add("the token", l.readToken, c.TokenFile); err != nil {
			return nil, err
		}
	}
	var err error
	if l.tokens, err = auth.OpenTokens(c.Tokens, time.Now); err != nil {
		return nil, err
	}
	if c.Users != "" {
		if l.users, err = auth.OpenUsers(c.Users); err != nil {
			return nil, err
		}
		if err := l.files.Add("the file of users", l.users.Read, c.Users); err != nil {
			return nil, err
		}
	}
	if c.HasTokens {
		l.tokens.Begin()
	}
	if err := l.files.Add("the file of tokens", l.tokens.Read, c.Tokens); err != nil {
		return nil, err
	}
	if c.TLS != "off" {
		files := []string{c.TLSCert, c.TLSKey}
		if c.TLSCA != "" {
			files = append(files, c.TLSCA)
		}
		if err := l.files.Add("the certificates of TLS", l.readTLS, files...); err != nil {
			return nil, err
		}
	}
	if c.File != "" {
		if err := l.files.Add("the settings", l.readSettings, c.File); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Token is the current token; "" if none is needed.
func (l *live) Token() string { return *l.token.Load() }

func (l *live) readToken() error {
	token, err := config.ReadToken(l.first.TokenFile)
	if err == nil {
		l.token.Store(&token)
	}
	return err
}

func (l *live) readTLS() error {
	set, err := certs.Read(certs.Files{Cert: l.first.TLSCert, Key: l.first.TLSKey, CA: l.first.TLSCA})
	if err == nil {
		l.certs.Store(set)
	}
	return err
}

// roots are the authority of clients' certificates, nil if there is none.
func (l *live) roots() *x509.CertPool {
	if set := l.certs.Load(); set != nil {
		return set.API.ClientCAs
	}
	return nil
}

// nbdTLS says how NBD connections are encrypted: each uses what was last read when
// it began.
func (l *live) nbdTLS() (nbd.TLSMode, *tls.Config) {
	mode := map[string]nbd.TLSMode{"off": nbd.TLSOff, "allow": nbd.TLSAllow, "require": nbd.TLSRequire}[l.first.TLS]
	if mode == nbd.TLSOff {
		return mode, nil
	}
	return mode, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.certs.Load().NBD, nil },
	}
}

// apiTLS lets clients of a listener of the API speak TLS, if that is on and others than this
// machine's may come there.
func (l *live) apiTLS(below net.Listener) net.Listener {
	if l.first.TLS == "off" || addrOf(below).Network == "unix" {
		return below
	}
	return &listener.TLS{Listener: below, Config: func() *tls.Config { return l.certs.Load().API }, Require: l.first.TLS == "require", Log: l.log}
}

// readSettings applies the settings that may change, and names the others.
func (l *live) readSettings() error {
	c, err := l.load()
	if err != nil {
		return err
	}
	l.level.Set(c.LogLevel)
	names := strings.Join(changed(l.first, c), ", ")
	if names != l.warned && names != "" {
		l.log.Warn("changed settings are used after a restart", "settings", names)
	}
	l.warned = names
	return nil
}

// changed names the settings that differ.
func changed(old, now *config.Config) (names []string) {
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*now)
	for i := range a.NumField() {
		if name := a.Type().Field(i).Name; name != "LogLevel" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}

// reread reads everything again, for SIGHUP. What cannot be read is logged, and
// keeps its old value.
func (l *live) reread(ctx context.Context, store *objstore.Store) {
	err := l.files.Read(true)
	if store == nil {
		return // the store is being opened with the current credentials
	}
	if serr := objstore.Reload(ctx, *store); serr != nil {
		l.log.Error("the credentials of the store could not be read again", "error", serr)
		err = errors.Join(err, serr)
	}
	if err == nil {
		l.log.Info("all files were read again")
	}
}
