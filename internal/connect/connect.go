// Package connect has the flags by which a command finds its daemon, and tells it who asks,
// and the contexts that have names for such flags.
package connect

import (
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/errs"
)

// Flags are what was given on the command line. An empty one has its variable's value.
type Flags struct {
	context string
	flags   Context
}

// Declare adds the flags to a command's.
func (f *Flags) Declare(flags *pflag.FlagSet) {
	flags.StringVar(&f.context, "context", "", "`NAME` of the daemon to ask, as glide context ls has it (default $GLIDE_CONTEXT, or the one in use)")
	flags.StringVar(&f.flags.API, "api", "", "daemon to ask: an `ADDR` unix:PATH or tcp:HOST:PORT (default $GLIDE_API, or the context's, or the socket in the default data directory)")
	flags.StringVar(&f.flags.TokenFile, "token-file", "", "`FILE` with the daemon's token, for TCP (default $GLIDE_TOKEN_FILE)")
	flags.StringVar(&f.flags.TLSCA, "tls-ca", "", "`FILE` with the authority of the daemon's certificate, for TLS over TCP (default $GLIDE_TLS_CA)")
	flags.StringVar(&f.flags.TLSCert, "tls-cert", "", "`FILE` with a certificate to show to the daemon (default $GLIDE_TLS_CERT)")
	flags.StringVar(&f.flags.TLSKey, "tls-key", "", "`FILE` with the key of that certificate (default $GLIDE_TLS_KEY)")
}

// Given are the flags alone.
func (f *Flags) Given() Context { return f.flags }

// Client returns a client of the daemon. It speaks TLS with a daemon at an address of TCP if
// a certificate or an authority is named. At a unix socket neither is needed, and no file of
// them is read.
func (f *Flags) Client() (*client.Client, error) {
	x, err := f.found()
	if err != nil {
		return nil, err
	}
	return x.client()
}

// found is what the flags say, else their variables, else the context. What a context has to
// show goes to its own daemon only: with another address, the context does not count.
func (f *Flags) found() (Context, error) {
	addr, _, _ := strings.Cut(os.Getenv("GLIDE_API"), ",")
	variables := Context{addr, os.Getenv("GLIDE_TOKEN_FILE"), os.Getenv("GLIDE_TLS_CA"), os.Getenv("GLIDE_TLS_CERT"), os.Getenv("GLIDE_TLS_KEY")}
	x := f.flags.or(variables)
	switch {
	case x.API == "":
	case f.flags.API != "" && f.context != "":
		return x, errs.New(errs.Invalid, "--context and --api both name a daemon: leave one out")
	case f.context != "":
		return x, errs.New(errs.Invalid, "--context and $GLIDE_API both name a daemon: unset the variable")
	default:
		return x, nil
	}
	all, err := ReadContexts()
	if err != nil {
		return x, err
	}
	name := f.context
	if name == "" {
		name = os.Getenv("GLIDE_CONTEXT")
	}
	named, err := all.Of(name)
	if err != nil {
		return x, err
	}
	x = x.or(named)
	if x.API == "" {
		x.API = config.DefaultAPI(config.ProcessSources(nil))
	}
	return x, nil
}

// or is x with the values of y where it has none.
func (x Context) or(y Context) Context {
	for _, v := range []struct{ have, other *string }{
		{&x.API, &y.API}, {&x.TokenFile, &y.TokenFile}, {&x.TLSCA, &y.TLSCA}, {&x.TLSCert, &y.TLSCert}, {&x.TLSKey, &y.TLSKey},
	} {
		if *v.have == "" {
			*v.have = *v.other
		}
	}
	return x
}

// client is a client of the daemon.
func (x Context) client() (*client.Client, error) {
	token, err := config.ReadToken(x.TokenFile)
	if err != nil {
		return nil, err
	}
	o := client.Options{Token: token}
	if strings.HasPrefix(x.API, "tcp:") {
		if o.TLS, err = certs.Client(certs.Files{Cert: x.TLSCert, Key: x.TLSKey, CA: x.TLSCA}); err != nil {
			return nil, err
		}
	}
	return client.New(x.API, o)
}
