package disk

import (
	"context"

	"github.com/paraglide/glide/internal/commitlog"
)

// KeyOf is the key in the store of a generation of a volume.
func (t *Table) KeyOf(ctx context.Context, n Name, g commitlog.Generation) (string, error) {
	return commitlog.KeyOf(ctx, t.Store, n.Log(), g)
}

// LogNames tells whose logs in the store those with hidden names are, as far as the volumes
// are on this host. It is for one goroutine.
type LogNames struct {
	t     *Table
	known map[string]bool // tenants
	names map[commitlog.Volume]Name
}

// LogNames returns the names of the volumes that are on this host now.
func (t *Table) LogNames() *LogNames {
	return &LogNames{t, map[string]bool{}, map[commitlog.Volume]Name{}}
}

// Of returns the name of the volume that has the log; if nobody here knows it, that of the
// log, and false.
func (l *LogNames) Of(ctx context.Context, log commitlog.Volume) (Name, bool) {
	n := Name{Tenant: log.Tenant, Volume: log.Name}
	if !log.Hidden() {
		return n, true
	}
	if !l.known[log.Tenant] {
		l.known[log.Tenant] = true
		for _, d := range l.t.All() {
			st := d.State()
			if st.Tenant != log.Tenant || st.Snapshot != "" {
				continue
			}
			own := Name{Tenant: st.Tenant, Volume: st.Name}
			if of, err := commitlog.LogOf(ctx, l.t.Store, own.Log()); err == nil { // else it is locked
				l.names[of] = own
			}
		}
	}
	own, ok := l.names[log]
	if !ok {
		return n, false
	}
	return own, true
}
