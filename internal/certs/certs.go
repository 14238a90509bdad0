// Package certs reads the certificates of a daemon and of a command, and says what TLS they
// make: with clients of NBD and of the API, with other hosts, and with a daemon.
//
// Whom a certificate stands for is in its URI: see auth.Certified.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
)

// Files name what is read, in PEM.
type Files struct {
	Cert, Key string
	CA        string // the authority of the other side; "": none
}

// Set is what was read for a daemon. It does not change.
type Set struct {
	// NBD is for its clients, who need a certificate if there is an authority. API is for
	// the API's, who may have one.
	NBD, API *tls.Config

	own   tls.Certificate
	roots *x509.CertPool // nil: there is no authority
}

// Read reads a daemon's files.
func Read(f Files) (*Set, error) {
	own, err := pair(f)
	if err != nil {
		return nil, err
	}
	s := &Set{own: own}
	s.NBD = &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	s.API = s.NBD.Clone()
	s.API.NextProtos = []string{"http/1.1"} // progress and deadlines are made for it
	if f.CA == "" {
		return s, nil
	}
	var rsa bool
	if s.roots, rsa, err = authority(f.CA); err != nil {
		return nil, err
	}
	s.NBD.ClientCAs, s.API.ClientCAs = s.roots, s.roots
	s.NBD.ClientAuth, s.API.ClientAuth = tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven
	if rsa {
		// In TLS 1.3, Go does not ask for certificates with the RSA signatures that most
		// authorities use, except in an extension that GnuTLS ignores: QEMU and libnbd
		// would send no certificate. In TLS 1.2, they would send none with an Ed25519 key.
		// Clients of the API are not made with GnuTLS.
		s.NBD.MaxVersion = tls.VersionTLS12
	}
	return s, nil
}

func pair(f Files) (tls.Certificate, error) {
	own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return own, errs.New(errs.Invalid, "the certificate and key of TLS: %w", err)
	}
	return own, nil
}

// authority reads certificates of authorities. rsa tells whether one of them signs with RSA.
func authority(path string) (pool *x509.CertPool, rsa bool, err error) {
	list, err := FromPEM(path)
	if err != nil {
		return nil, false, errs.New(errs.Invalid, "the authority of TLS: %w", err)
	}
	pool = x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c)
		rsa = rsa || c.PublicKeyAlgorithm == x509.RSA
	}
	return pool, rsa, nil
}

// FromPEM reads the certificates of a file, and passes over what else it holds. None is an
// error.
func FromPEM(path string) (list []*x509.Certificate, err error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, errs.New(errs.Invalid, "%s: %w", path, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errs.New(errs.Invalid, "%s holds no certificate in PEM", path)
	}
	return list, nil
}

// Verify verifies the certificate that a client has shown, with those that came with it, by
// roots. Without these it is good for nothing.
func Verify(shown []*x509.Certificate, roots *x509.CertPool) ([][]*x509.Certificate, error) {
	if roots == nil { // it would be the system's
		return nil, errs.New(errs.Denied, "there is no authority for the certificates of clients")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range shown[1:] {
		o.Intermediates.AddCert(c)
	}
	return shown[0].Verify(o)
}

// Mutual tells whether the daemon can speak TLS with other hosts: it has a certificate to
// show them, and an authority by which to tell theirs.
func (s *Set) Mutual() bool { return s != nil && s.roots != nil }

// Is tells whether the daemon's certificate is that of a host.
func (s *Set) Is(host string) bool { return auth.IsHost(s.own.Leaf, host) }

// Peer is how a daemon speaks with another host, and with nobody else: the certificate that
// it is shown is of the daemon's own authority, and names that host. A name or an address
// counts for nothing, because it comes from where anybody may have put it. The other side
// gets this host's certificate after that. now returns what was last read, which is Mutual.
func Peer(now func() *Set, host string) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &now().own, nil },
		InsecureSkipVerify:   true, // VerifyConnection does it, without the name
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf := state.PeerCertificates[0]
			o := x509.VerifyOptions{Roots: now().roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
			for _, c := range state.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			if _, err := leaf.Verify(o); err != nil {
				return errs.New(errs.Unavailable, "the host there cannot prove that it is %s: %w", host, err)
			}
			if !auth.IsHost(leaf, host) {
				return errs.New(errs.Unavailable, "the host there is not %s: its certificate, of %.100q, lacks the URI %s", host, leaf.Subject.String(), auth.HostURI(host))
			}
			return nil
		},
	}
}

// Self is how a daemon speaks with itself, to see that it answers. It says nothing that
// others must not hear.
func Self() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
}

// Client is how a command speaks with a daemon at an address of TCP: nil if no file is named.
// Without an authority, those of the system count.
func Client(f Files) (*tls.Config, error) {
	if f == (Files{}) {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errs.New(errs.Invalid, "--tls-cert and --tls-key go together")
	}
	if f.Cert != "" {
		own, err := pair(f)
		if err != nil {
			return nil, err
		}
		// Shown whatever authorities the daemon names: it says better than we could why it
		// does not take it.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	}
	if f.CA != "" {
		var err error
		if t.RootCAs, _, err = authority(f.CA); err != nil {
			return nil, err
		}
	}
	return t, nil
}
