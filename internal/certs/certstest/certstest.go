// Package certstest makes certificates for tests.
package certstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/certs"
)

// NewKey makes a private key.
type NewKey func() (crypto.Signer, error)

// ECDSA makes a key on the curve P-256.
func ECDSA() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// RSA makes a key of 2048 bits.
func RSA() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

// Ed25519 makes a key of that kind.
func Ed25519() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// Authority issues certificates with keys of one kind.
type Authority struct {
	tb   testing.TB
	new  NewKey
	key  crypto.Signer
	cert *x509.Certificate
	CA   string // the file with its own certificate
}

// New makes an authority.
func New(tb testing.TB, key NewKey) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, new: key, CA: filepath.Join(tb.TempDir(), "ca-cert.pem")}
	var err error
	a.key, err = key()
	a.check(err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, a.key.Public(), a.key)
	a.check(err)
	a.cert, err = x509.ParseCertificate(der)
	a.check(err)
	a.check(write(a.CA, "CERTIFICATE", der))
	return a
}

// Want is what a certificate is to be.
type Want struct {
	Names []string           // DNS names; none: localhost and 127.0.0.1
	URI   string             // "": none
	Usage []x509.ExtKeyUsage // none: of servers and of clients
	Lasts time.Duration      // 0: a thousand hours; below 0: it has ended
}

// Issue makes a certificate and its key. Their directory has the names that libnbd and QEMU
// look for, those of a server's certificate and of a client's.
func (a *Authority) Issue(w Want) (dir string, files certs.Files) {
	a.tb.Helper()
	key, err := a.new()
	a.check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	a.check(err)
	if w.Lasts == 0 {
		w.Lasts = 999 * time.Hour
	}
	if w.Usage == nil {
		w.Usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "someone"}, DNSNames: w.Names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(w.Lasts),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: w.Usage, BasicConstraintsValid: true,
	}
	if w.Names == nil {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	if w.URI != "" {
		u, err := url.Parse(w.URI)
		a.check(err)
		c.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	a.check(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	a.check(err)
	dir = a.tb.TempDir()
	files = certs.Files{Cert: filepath.Join(dir, "client-cert.pem"), Key: filepath.Join(dir, "client-key.pem"), CA: filepath.Join(dir, "ca-cert.pem")}
	a.check(write(files.CA, "CERTIFICATE", a.cert.Raw))
	for _, side := range []string{"client", "server"} {
		a.check(errors.Join(write(filepath.Join(dir, side+"-cert.pem"), "CERTIFICATE", der), write(filepath.Join(dir, side+"-key.pem"), "PRIVATE KEY", keyDER)))
	}
	return dir, files
}

func (a *Authority) check(err error) {
	a.tb.Helper()
	if err != nil {
		a.tb.Fatal(err)
	}
}

func write(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
