package host

import (
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

const defaultTenant = "default"

// Name is a parsed [tenant/]name[@snapshot].
type Name struct {
	Tenant, Volume, Snapshot string
}

// ParseName reads the name of a volume, or of a snapshot where that is allowed.
func ParseName(s string, snapshot bool) (Name, error) {
	n := Name{Tenant: defaultTenant, Volume: s}
	if i := strings.IndexByte(n.Volume, '@'); i >= 0 {
		if !snapshot {
			return Name{}, errs.New(errs.Invalid, "%q names a snapshot: only what reads a volume takes one", s)
		}
		n.Volume, n.Snapshot = n.Volume[:i], n.Volume[i+1:]
		if !commitlog.ValidName(n.Snapshot) {
			return Name{}, badName("snapshot", n.Snapshot)
		}
	}
	if i := strings.IndexByte(n.Volume, '/'); i >= 0 {
		n.Tenant, n.Volume = n.Volume[:i], n.Volume[i+1:]
		if !commitlog.ValidName(n.Tenant) {
			return Name{}, badName("tenant", n.Tenant)
		}
	}
	if !commitlog.ValidName(n.Volume) {
		return Name{}, badName("volume", n.Volume)
	}
	return n, nil
}

func badName(what, s string) error {
	if len(s) > 110 {
		s = s[:107] + "..."
	}
	return errs.New(errs.Invalid, "%q is not a name for a %s: 1 to 100 letters, digits, dots, underscores and hyphens are, beginning with a letter or digit", s, what)
}

// String is the name as people write it: the default tenant is not printed.
func (n Name) String() string { return display(n.Tenant, n.Volume, n.Snapshot) }

func (n Name) log() commitlog.Volume {
	return commitlog.Volume{Tenant: n.Tenant, Name: n.Volume}
}

func display(tenant, name, snapshot string) string {
	if tenant != defaultTenant {
		name = tenant + "/" + name
	}
	if snapshot != "" {
		name += "@" + snapshot
	}
	return name
}

// tenantShown is a tenant as JSON has it: the default one is not printed.
func tenantShown(tenant string) string {
	if tenant == defaultTenant {
		return ""
	}
	return tenant
}

// inTenant is a name as commits have it, which belong to a tenant.
func inTenant(name string) string {
	if n, err := ParseName(name, false); err == nil {
		return n.Volume
	}
	return name // which the commit refuses
}

func keyOf(tenant, name, snapshot string) string {
	if snapshot != "" {
		return tenant + "/" + name + "@" + snapshot
	}
	return tenant + "/" + name
}

// find returns this host's disk with the name, nil if it has none.
func (h *Host) find(n Name) *disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byName[keyOf(n.Tenant, n.Volume, n.Snapshot)]
}

// local returns this host's disk with the name.
func (h *Host) local(name string, snapshot bool) (*disk, error) {
	n, err := ParseName(name, snapshot)
	if err != nil {
		return nil, err
	}
	d := h.find(n)
	if d == nil {
		whole := Name{n.Tenant, n.Volume, ""}
		if n.Snapshot != "" && h.find(whole) != nil {
			return nil, errs.New(errs.NotFound, "volume %q has no snapshot %q: glide snapshots %s lists them", whole, n.Snapshot, whole)
		}
		return nil, errs.New(errs.NotFound, "there is no volume %q on this host: glide ls --all shows those of the store, glide wake %s takes one over", n, whole)
	}
	return d, nil
}

// reserve puts a new disk under its name, if that is free on this host.
func (h *Host) reserve(d *disk) error {
	key := d.key()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byName[key] != nil {
		st := d.state()
		return onThisHost(Name{st.Tenant, st.Name, st.Snapshot})
	}
	if old := h.disks[d.id]; old != nil {
		return errs.New(errs.Busy, "volume %s is on this host already, under another name", d.id)
	}
	if _, left := h.orphans[d.id]; left {
		return errs.New(errs.Busy, "volume %s was left by a call that did not end, and is being removed from the store", d.id)
	}
	h.byName[key] = d
	h.disks[d.id] = d
	return nil
}

func onThisHost(n Name) error {
	return errs.New(errs.Exists, "a volume %q is on this host already", n)
}

// disk finds a disk of this host; nil if there is none.
func (h *Host) disk(id volume.ID) *disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disks[id]
}

// unreserve takes a disk that was reserved, and not made, out of the tables; who
// waits for it finds it gone.
func (h *Host) unreserve(d *disk) {
	h.drop(d)
	d.mu.Lock()
	d.gone = true
	d.mu.Unlock()
}

// drop takes a disk out of the tables.
func (h *Host) drop(d *disk) {
	key := d.key()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.disks, d.id)
	if h.byName[key] == d {
		delete(h.byName, key)
	}
}
