package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/localkey"
)

// soon is how long before its end a certificate is complained about.
const soon = 14 * 24 * time.Hour

// Files checks the files by which a daemon is told from others, and tells who asks: who may
// read or change them, and whether the certificates are in order. host is the daemon's id, ""
// if it is not known. A file that the settings do not name is not checked.
func Files(c *config.Config, host string) (list []client.Check) {
	add := func(name, path string, detail string, err error, fix string) {
		switch {
		case err != nil:
			list = append(list, failed(name, err, fix))
		case path != "":
			list = append(list, client.Check{Name: name, OK: true, Detail: detail})
		}
	}
	add("token file", c.TokenFile, "only those who should can read "+c.TokenFile, guarded(c.TokenFile, 0o007, "read"), "chmod 600 it, and change the token")
	err := guarded(c.Tokens, 0o022, "written")
	if !errors.Is(err, fs.ErrNotExist) { // that is no token yet
		add("tokens", c.Tokens, "only its owner can write to "+c.Tokens, err, "chmod 600 it, and look at what glide token ls shows")
	}
	list = append(list, atRest(c))
	if c.TLS == "off" {
		return list
	}
	add("TLS key", c.TLSKey, "only those who should can read "+c.TLSKey, guarded(c.TLSKey, 0o007, "read"), "chmod 600 it, and issue a certificate for a new key")
	until, err := lasts(c.TLSCert)
	if pair, perr := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey); err == nil {
		if err = perr; err != nil {
			err = fmt.Errorf("%s is not the certificate of %s: %w", c.TLSCert, c.TLSKey, err)
		} else {
			err = forOthers(c, pair.Leaf, host)
		}
	}
	add("TLS certificate", c.TLSCert, fmt.Sprintf("%s is valid until %s", c.TLSCert, until.Format(time.RFC3339)), err, "issue a new one: see docs/operations.md; the daemon reads it when it changes")
	until, err = lasts(c.TLSCA)
	add("TLS authority", c.TLSCA, fmt.Sprintf("%s is valid until %s", c.TLSCA, until.Format(time.RFC3339)), err, "put a new one beside it into the file, and issue certificates of that")
	return list
}

// atRest tells how what the data directory holds is protected from who gets the disk. That
// it is not is a note: others may see to it.
func atRest(c *config.Config) client.Check {
	check := client.Check{Name: "disk encryption", OK: true, Detail: "sealed with the host's own key (" + c.LocalKey + ")"}
	if c.LocalKey != "" {
		return check
	}
	switch yes, known := localkey.Encrypted(c.Data); {
	case yes:
		check.Detail = "the disk of " + c.Data + " is encrypted by the kernel"
	case known:
		check.Detail = "none: who gets the disk of " + c.Data + " can read volumes; --local-key seals what is on it"
	default:
		check.Detail = "whether the disk of " + c.Data + " is encrypted cannot be told; --local-key seals what is on it"
	}
	return check
}

// guarded is an error if others than should have rights to a file. "" is no file.
func guarded(path string, bits fs.FileMode, what string) error {
	if path == "" {
		return nil
	}
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm()&bits != 0 {
		err = fmt.Errorf("%s can be %s by others: its mode is %#o", path, what, st.Mode().Perm())
	}
	return err
}

// lasts returns when the first certificate of a file in PEM ends. It is an error if that is
// soon, or has been.
func lasts(path string) (until time.Time, err error) {
	if path == "" {
		return until, nil
	}
	list, err := certs.FromPEM(path)
	if err != nil {
		return until, err
	}
	until = slices.MinFunc(list, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
	left := time.Until(until)
	switch {
	case left <= 0:
		err = fmt.Errorf("%s expired at %s", path, until.Format(time.RFC3339))
	case left < soon:
		err = fmt.Errorf("%s expires in %d days, at %s", path, left/(24*time.Hour), until.Format(time.RFC3339))
	}
	return until, err
}

// forOthers is an error if other hosts will not believe that a certificate is this one's.
func forOthers(c *config.Config, cert *x509.Certificate, host string) error {
	tcp := func(s string) bool { a, err := api.ParseAddr(s); return err == nil && a.Network == "tcp" }
	asked := tcp(c.Advertise)
	for _, a := range c.API {
		asked = asked || tcp(a.String()) && !a.Local()
	}
	if host == "" || c.TLSCA == "" || !asked || auth.IsHost(cert, host) {
		return nil
	}
	return fmt.Errorf("other hosts will not believe that %s is this host's: it lacks the URI %s", c.TLSCert, auth.HostURI(host))
}
