package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
)

// named is a TLS configuration for an address. One without a host is this machine's.
func named(t *tls.Config, addr string) *tls.Config {
	t = t.Clone()
	if host, _, err := net.SplitHostPort(addr); err == nil && host == "" && t.ServerName == "" {
		t.ServerName = "localhost"
	}
	return t
}

// refusals are what a daemon that does not accept a certificate sends, by the text of its
// TLS alert. Package tls has no other name for them.
var refusals = []struct{ alert, says string }{
	{"certificate required", "wants a certificate: give --tls-cert and --tls-key"},
	{"expired certificate", "does not accept the certificate of --tls-cert: it has expired"},
	{"unknown certificate authority", "does not accept the certificate of --tls-cert: it is not of the authority that is named there by --tls-ca"},
	{"bad certificate", "does not accept the certificate of --tls-cert: it must be for a client, and of the authority that is named there by --tls-ca"},
}

// overTLS says what an error of TLS means, after the name of the daemon; "": it is none that is
// known.
func overTLS(err error) string {
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		for _, r := range refusals {
			if strings.Contains(remote.Err.Error(), r.alert) {
				return r.says
			}
		}
	}
	var (
		plain   tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &plain), errors.Is(err, http.ErrSchemeMismatch):
		return "speaks no TLS: leave out --tls-ca and --tls-cert, or start it with --tls"
	case errors.As(err, &unknown):
		return "has a certificate of an unknown authority: name its authority with --tls-ca"
	case errors.As(err, &name):
		return "has a certificate for another name: use the address that it is for, or issue it for this one"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "has a certificate that has expired, or is not valid yet: issue a new one, or set the clock"
	}
	return ""
}
