package export

import (
	"cmp"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/latency"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// Exports are what guests can connect to. It implements nbd.Exporter by volume names. All
// methods may be called concurrently.
type Exports struct {
	// Panicked records a panic in a request and returns the error for the request.
	Panicked func(doing string, value any) error
	// Latency counts the requests of all volumes.
	Latency latency.ByOp

	disks  *disk.Table
	owners *ownership.Owners
}

// New returns the exports of a host.
func New(t *disk.Table, ow *ownership.Owners, panicked func(doing string, value any) error) *Exports {
	return &Exports{Panicked: panicked, disks: t, owners: ow}
}

// Open implements nbd.Exporter. It wakes a sleeping volume.
func (ex *Exports) Open(name string) (*nbd.Export, error) {
	d, err := ex.disks.Local(name, true)
	if err != nil {
		return nil, err
	}
	return ex.openDisk(d)
}

// openDisk opens an export of a disk that the caller has found.
func (ex *Exports) openDisk(d *disk.Disk) (*nbd.Export, error) {
	err := cmp.Or(d.RefuseFenced(), d.RefuseWhileCreated(), ex.refuseLocked(d))
	if err != nil {
		return nil, err
	}
	v := d.KeepOpen()
	if v == nil {
		if v, err = d.WakeUnlocked(false); err != nil {
			return nil, err
		}
		ex.owners.CheckSealSoon(d)
	}
	x := &Device{Ex: ex, D: d, V: v, readOnly: d.State().Snapshot != "", ended: make(chan struct{})}
	x.MayChange = x.alive
	if !d.Connect(x, v) {
		return nil, errs.New(errs.Unavailable, "volume %q is being closed", d)
	}
	lat := d.Latencies()
	e := ex.export(d, x)
	e.Observe = func(op nbd.Op, _ int, took time.Duration) {
		lat.Of(op).Add(took)
		ex.Latency.Of(op).Add(took)
		if op == nbd.OpWrite || op == nbd.OpTrim || op == nbd.OpZero {
			if d.SealCheckDue() {
				ex.owners.CheckSealSoon(d)
			}
		}
	}
	e.Closed = func() {
		x.Cut() // a write of it that still waits must not be applied after writes of the next connection
		d.Disconnected(x)
	}
	return e, nil
}

// refuseLocked returns why the keys of a sealed tenant are not here, if they are not. Of a
// tenant that is plain as far as is known, it asks nobody.
func (ex *Exports) refuseLocked(d *disk.Disk) error {
	st := d.State()
	domain := disk.DomainName(&st)
	if sealed, _ := ex.disks.Tenants.Sealed(domain); !sealed {
		return nil
	}
	return ex.disks.Tenants.Ready(ex.disks.Ctx, domain)
}

func (ex *Exports) export(d *disk.Disk, x *Device) *nbd.Export {
	return &nbd.Export{Name: d.String(), ReadOnly: x.readOnly, Contexts: []string{dirtyContext}, Device: x}
}

// Describe implements nbd.Exporter. It describes a sleeping volume from its record and
// does not wake it.
func (ex *Exports) Describe(name string) (*nbd.Export, error) {
	d, err := ex.disks.Local(name, true)
	if err != nil {
		return nil, err
	}
	st := d.State()
	if st.Mode == volume.Failed || st.Mode == volume.Fenced {
		return nil, errs.New(errs.Fenced, "volume %q is %s: %s", d, st.Mode, st.Reason)
	}
	e := ex.export(d, &Device{D: d, readOnly: st.Snapshot != ""})
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

// List implements nbd.Exporter. It lists the volumes that can be connected to.
func (ex *Exports) List() []string {
	var names []string
	for _, d := range ex.disks.All() {
		if st := d.State(); st.Mode == volume.Active || st.Mode == volume.Asleep {
			names = append(names, d.String())
		}
	}
	slices.Sort(names)
	return names
}

// URI returns the NBD URI of an export at one of serve's listening addresses.
func URI(addr, export string, tls bool) string {
	scheme := "nbd"
	if tls {
		scheme = "nbds"
	}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		q := url.Values{"socket": {path}}
		// Clients expect unescaped slashes in the socket's path, and take a plus
		// literally.
		return scheme + "+unix:///" + escapeExport(export) + "?" + strings.NewReplacer("%2F", "/", "+", "%20").Replace(q.Encode())
	}
	at := strings.TrimPrefix(addr, "tcp:")
	if host, port, err := net.SplitHostPort(at); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			at = net.JoinHostPort("localhost", port) // the wildcard address cannot be connected to
		}
	}
	return scheme + "://" + at + "/" + escapeExport(export)
}

func escapeExport(name string) string {
	return strings.ReplaceAll(url.PathEscape(name), "%2F", "/")
}
