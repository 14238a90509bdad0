// Package connect has the flags by which a command finds its daemon, and tells it who asks.
package connect

import (
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/config"
)

// Flags are what was given on the command line. An empty one has its variable's value.
type Flags struct {
	api, tokenFile string
	tls            certs.Files
}

// Declare adds the flags to a command's.
func (f *Flags) Declare(flags *pflag.FlagSet) {
	flags.StringVar(&f.api, "api", "", "daemon to ask: an `ADDR` unix:PATH or tcp:HOST:PORT (default $GLIDE_API, or the socket in the default data directory)")
	flags.StringVar(&f.tokenFile, "token-file", "", "`FILE` with the daemon's token, for TCP (default $GLIDE_TOKEN_FILE)")
	flags.StringVar(&f.tls.CA, "tls-ca", "", "`FILE` with the authority of the daemon's certificate, for TLS over TCP (default $GLIDE_TLS_CA)")
	flags.StringVar(&f.tls.Cert, "tls-cert", "", "`FILE` with a certificate to show to the daemon (default $GLIDE_TLS_CERT)")
	flags.StringVar(&f.tls.Key, "tls-key", "", "`FILE` with the key of that certificate (default $GLIDE_TLS_KEY)")
}

// Client returns a client of the daemon. It speaks TLS with a daemon at an address of TCP if
// a certificate or an authority is named. At a unix socket neither is needed, and no file of
// them is read.
func (f *Flags) Client() (*client.Client, error) {
	addr, _, _ := strings.Cut(given(f.api, "GLIDE_API"), ",")
	if f.api != "" {
		addr = f.api
	}
	if addr == "" {
		addr = config.DefaultAPI(config.ProcessSources(nil))
	}
	token, err := config.ReadToken(given(f.tokenFile, "GLIDE_TOKEN_FILE"))
	if err != nil {
		return nil, err
	}
	o := client.Options{Token: token}
	if strings.HasPrefix(addr, "tcp:") {
		files := certs.Files{Cert: given(f.tls.Cert, "GLIDE_TLS_CERT"), Key: given(f.tls.Key, "GLIDE_TLS_KEY"), CA: given(f.tls.CA, "GLIDE_TLS_CA")}
		if o.TLS, err = certs.Client(files); err != nil {
			return nil, err
		}
	}
	return client.New(addr, o)
}

// given is the value of a flag, or that of its variable.
func given(flag, variable string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(variable)
}
