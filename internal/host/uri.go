package host

import (
	"net"
	"net/url"
	"strings"

	"github.com/paraglide/glide/nbd"
)

// nbdURI is the NBD URI of an export at an address of serve's.
func nbdURI(addr, export string, tls bool) string {
	scheme := "nbd"
	if tls {
		scheme = "nbds"
	}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		q := url.Values{"socket": {path}}
		// Clients want slashes of the socket as they are, and take a plus for one.
		return scheme + "+unix:///" + escapeExport(export) + "?" + strings.NewReplacer("%2F", "/", "+", "%20").Replace(q.Encode())
	}
	at := strings.TrimPrefix(addr, "tcp:")
	if host, port, err := net.SplitHostPort(at); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			at = net.JoinHostPort("localhost", port) // nobody is reached at "any address"
		}
	}
	return scheme + "://" + at + "/" + escapeExport(export)
}

func escapeExport(name string) string {
	return strings.ReplaceAll(url.PathEscape(name), "%2F", "/")
}

// Exports is the host as an NBD server sees it.
func (h *Host) Exports() nbd.Exporter { return exporter{h} }

// exporter keeps the NBD methods, which have everyday names, off the Host.
type exporter struct{ h *Host }

func (e exporter) Open(name string) (*nbd.Export, error)     { return e.h.openExport(name) }
func (e exporter) Describe(name string) (*nbd.Export, error) { return e.h.describeExport(name) }
func (e exporter) List() []string                            { return e.h.exportNames() }
