package nbd_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// pki is an authority with a server's and a client's certificate, also as files
// with the names that qemu and libnbd look for.
type pki struct {
	dir    string
	server *tls.Config // asks for the client's certificate
	client *tls.Config
}

func newPKI(tb testing.TB) *pki {
	tb.Helper()
	p := &pki{dir: tb.TempDir()}
	check := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	save := func(name, kind string, der []byte) []byte {
		b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		check(os.WriteFile(filepath.Join(p.dir, name+".pem"), b, 0o600))
		return b
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()),
			Subject:      pkix.Name{CommonName: name},
			NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true,
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := template("test authority")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	check(err)
	caPEM := save("ca-cert", "CERTIFICATE", caDER)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(caPEM)

	issue := func(name string, usage x509.ExtKeyUsage) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		cert := template(name)
		cert.KeyUsage, cert.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
		cert.DNSNames, cert.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
		check(err)
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		check(err)
		pair, err := tls.X509KeyPair(save(name+"-cert", "CERTIFICATE", der), save(name+"-key", "PRIVATE KEY", keyDER))
		check(err)
		return pair
	}
	p.server = &tls.Config{
		Certificates: []tls.Certificate{issue("server", x509.ExtKeyUsageServerAuth)},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	p.client = &tls.Config{
		Certificates: []tls.Certificate{issue("client", x509.ExtKeyUsageClientAuth)},
		RootCAs:      pool, ServerName: "localhost",
	}
	return p
}

func TestTLS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, mode := range []nbd.TLSMode{nbd.TLSAllow, nbd.TLSRequire} {
		s := serve(t, nbd.Options{TLS: mode, TLSConfig: p.server})
		for _, cold := range []bool{false, true} {
			s.mem.Cold.Store(cold)
			c := s.client(t, nbdclient.Options{TLS: p.client, Contexts: []string{"base:allocation"}})
			want, got := pattern(3*mib, 1), make([]byte, 3*mib)
			if err := errors.Join(c.Write(want, 77, nbdclient.FUA), c.Flush(), c.Read(got, 77)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("mode %d, cold %v: %v, same %v", mode, cold, err, bytes.Equal(got, want))
			}
			if _, err := c.BlockStatus(0, mib, 0); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		plain, err := nbdclient.Dial(t.Context(), "unix", s.socket, nbdclient.Options{})
		if refused := errors.Is(err, nbdclient.ErrRefused); refused != (mode == nbd.TLSRequire) || err != nil && !refused {
			t.Errorf("mode %d: plain client: %v", mode, err)
		}
		if err == nil {
			_ = plain.Close()
		}
		stranger := p.client.Clone()
		stranger.Certificates = nil
		if _, err := nbdclient.Dial(t.Context(), "unix", s.socket, nbdclient.Options{TLS: stranger}); err == nil {
			t.Errorf("mode %d: a client without a certificate was let in", mode)
		}
		eventually(t, "Closed is called", func() bool { return s.exports.Connections("") == 0 })
	}
}

// TestTLSRequired checks that nothing can be learnt before TLS.
func TestTLSRequired(t *testing.T) {
	s := serve(t, nbd.Options{TLS: nbd.TLSRequire, TLSConfig: newPKI(t).server})
	r := s.dial(t, fixed)
	info := wire.AppendInfoRequest(nil, wire.InfoRequest{})
	for option, data := range map[uint32][]byte{
		wire.OptList: nil, wire.OptInfo: info, wire.OptGo: info, wire.OptStructuredReply: nil,
		wire.OptListMetaContext: {}, wire.OptSetMetaContext: {}, wire.OptExtendedHeaders: nil, 99: nil,
	} {
		r.wantReply(option, data, wire.RepErrTLSReqd, "TLS")
	}
	r.wantReply(wire.OptStartTLS, []byte{0}, wire.RepErrInvalid, "no data")
	r.wantReply(wire.OptAbort, nil, wire.RepAck, "")
	r.wantEnd()
	r = s.dial(t, fixed)
	r.send(wire.AppendOption(nil, wire.OptExportName, nil))
	r.wantEnd()
	if n := s.exports.Opened(""); n != 0 {
		t.Errorf("the export was opened %d times", n)
	}
}

// startTLS turns a raw connection into one over TLS.
func (r *raw) startTLS(p *pki) {
	r.tb.Helper()
	r.wantReply(wire.OptStartTLS, nil, wire.RepAck, "")
	c := tls.Client(r.Conn, p.client)
	if err := c.Handshake(); err != nil {
		r.tb.Fatal(err)
	}
	r.Conn = c
}

// TestTLSForgets checks that what was negotiated in plain text, where anybody
// could have put it in, does not count under TLS.
func TestTLSForgets(t *testing.T) {
	p := newPKI(t)
	s := serve(t, nbd.Options{TLS: nbd.TLSAllow, TLSConfig: p.server})
	r := s.dial(t, fixed)
	r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
	ctx := wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"base:allocation"}})
	contexts(t, r.option(wire.OptSetMetaContext, ctx))
	r.startTLS(p)
	r.wantReply(wire.OptStartTLS, nil, wire.RepErrInvalid, "already")
	r.wantReply(wire.OptSetMetaContext, ctx, wire.RepErrInvalid, "structured")
	got := infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
	if flags := got[wire.InfoExport].Flags; flags&wire.ExportSendDF != 0 {
		t.Errorf("flags %#x: structured replies have survived", flags)
	}
	r.request(wire.Request{Type: wire.CmdBlockStatus, Cookie: 1, Length: 1}, nil)
	r.wantSimple(1, nbd.EINVAL)
	r.request(wire.Request{Type: wire.CmdDisc}, nil)
	r.wantEnd()
}

// TestTLSInjection sends plain text together with STARTTLS, as somebody between
// client and server could: none of it may be obeyed.
func TestTLSInjection(t *testing.T) {
	s := serve(t, nbd.Options{TLS: nbd.TLSRequire, TLSConfig: newPKI(t).server})
	r := s.dial(t, fixed)
	inject := wire.AppendOption(nil, wire.OptStartTLS, nil)
	inject = wire.AppendOption(inject, wire.OptList, nil)
	inject = wire.AppendOption(inject, wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{}))
	r.send(inject)
	if got := r.replies(wire.OptStartTLS); len(got) != 1 || got[0].kind != wire.RepAck {
		t.Fatalf("STARTTLS: %v", got)
	}
	var rest bytes.Buffer
	_, _ = rest.ReadFrom(r) // a TLS alert at most
	if bytes.Contains(rest.Bytes(), wire.AppendOptionReply(nil, 0, 0, "")[:8]) || rest.Len() > 100 {
		t.Errorf("the server went on after injected plain text: %x", rest.Bytes())
	}
	if n := s.exports.Opened(""); n != 0 {
		t.Errorf("the export was opened %d times", n)
	}
}

// TestTLSVanish checks the end of TLS connections that end badly.
func TestTLSVanish(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	s := serve(t, nbd.Options{TLS: nbd.TLSAllow, TLSConfig: p.server, HandshakeTimeout: 600 * time.Millisecond})
	r := s.dial(t, fixed)
	r.wantReply(wire.OptStartTLS, nil, wire.RepAck, "") // and then nothing
	r.wantEnd()
	s2 := serve(t, nbd.Options{TLS: nbd.TLSAllow, TLSConfig: p.server})
	r = s2.dial(t, fixed)
	plain := r.Conn
	r.startTLS(p)
	infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
	r.alive()
	_ = plain.Close()
	eventually(t, "Closed is called", func() bool { return s2.exports.Connections("") == 0 })
	// Idle for longer than the watch takes to slim it, and shut down by the server.
	r = s2.dial(t, fixed)
	r.startTLS(p)
	infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
	r.request(wire.Request{Type: wire.CmdWrite, Cookie: 1, Length: 100_000}, make([]byte, 100_000))
	r.wantSimple(1, 0)
	time.Sleep(1200 * time.Millisecond)
	r.alive()
	if err := s2.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	r.wantEnd()
}
