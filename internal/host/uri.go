package host

import (
	"github.com/paraglide/glide/nbd"
)

// Exports is the host as an NBD server sees it.
func (h *Host) Exports() nbd.Exporter { return exporter{h} }
