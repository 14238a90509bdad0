package host

import (
	"cmp"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// Open implements nbd.Exporter: a connection to a volume that sleeps wakes it.
func (h *Host) openExport(name string) (*nbd.Export, error) {
	d, err := h.local(name, true)
	if err != nil {
		return nil, err
	}
	return h.openDisk(d)
}

// openDisk is openExport for a disk that was found.
func (h *Host) openDisk(d *disk) (*nbd.Export, error) {
	err := cmp.Or(d.refuseFenced(), d.refuseWhileCreated())
	if err != nil {
		return nil, err
	}
	v := d.keepOpen()
	if v == nil {
		if v, err = d.wakeAlone(false); err != nil {
			return nil, err
		}
		h.checkSealSoon(d)
	}
	x := &device{d: d, v: v, readOnly: d.state().Snapshot != ""}
	x.mayFn = x.alive
	d.mu.Lock()
	if d.v != v || d.guestsBlocked {
		d.mu.Unlock()
		return nil, errs.New(errs.Unavailable, "volume %q is being closed", d)
	}
	d.conns[x] = struct{}{}
	lat := d.latencies()
	d.mu.Unlock()
	e := d.export(x)
	e.Observe = func(op nbd.Op, _ int, took time.Duration) {
		lat.of(op).add(took)
		h.lat.of(op).add(took)
		if op == nbd.OpWrite || op == nbd.OpTrim || op == nbd.OpZero {
			d.written()
		}
	}
	e.Closed = func() {
		x.cut() // a write of it that still waits must not come after those of the next connection
		d.mu.Lock()
		delete(d.conns, x)
		d.mu.Unlock()
	}
	return e, nil
}

func (d *disk) export(x *device) *nbd.Export {
	return &nbd.Export{Name: d.String(), ReadOnly: x.readOnly, Contexts: []string{dirtyContext}, Device: x}
}

// describeExport describes an export: a volume that sleeps is described from its
// record; nothing is woken.
func (h *Host) describeExport(name string) (*nbd.Export, error) {
	d, err := h.local(name, true)
	if err != nil {
		return nil, err
	}
	st := d.state()
	if st.Mode == volume.Failed || st.Mode == volume.Fenced {
		return nil, errs.New(errs.Fenced, "volume %q is %s: %s", d, st.Mode, st.Reason)
	}
	e := d.export(&device{d: d, readOnly: st.Snapshot != ""})
	e.Device = sleeping{st.Size}
	return e, nil
}

// sleeping is a device that only has a size.
type sleeping struct{ size uint64 }

func (s sleeping) Size() uint64 { return s.size }

func (s sleeping) ReadAt([]byte, uint64) error { return errClosedDevice }

func (s sleeping) TryReadAt([]byte, uint64) bool { return false }

func (s sleeping) WriteFrames([]uint64, [][]byte) error { return errClosedDevice }

func (s sleeping) Zero(uint64, uint64, bool) error { return errClosedDevice }

func (s sleeping) Flush() error { return errClosedDevice }

func (s sleeping) Prefetch(uint64, uint64) {}

func (s sleeping) Extents([]nbd.Extent, string, uint64, uint64) ([]nbd.Extent, error) {
	return nil, errClosedDevice
}

var errClosedDevice = errs.New(errs.Unavailable, "the volume is not open")

// exportNames lists what can be connected to.
func (h *Host) exportNames() []string {
	var names []string
	for _, d := range h.all() {
		if st := d.state(); st.Mode == volume.Active || st.Mode == volume.Asleep {
			names = append(names, d.String())
		}
	}
	slices.Sort(names)
	return names
}

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

// exporter keeps the NBD methods, which have everyday names, off the Host.
type exporter struct{ h *Host }

func (e exporter) Open(name string) (*nbd.Export, error) { return e.h.openExport(name) }

func (e exporter) Describe(name string) (*nbd.Export, error) { return e.h.describeExport(name) }

func (e exporter) List() []string { return e.h.exportNames() }
