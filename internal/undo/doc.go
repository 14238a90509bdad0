// Package undo takes back what a user regrets. It restores removed volumes, keeps what a
// rollback gives up as a snapshot, and removes snapshots that were to be kept for some time
// only.
//
// It has no lock of its own. Methods that say "under op" need the Op of their disk; the
// others take it.
package undo

import (
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/publication"
)

// Undo does that for one host. Its methods may be called concurrently.
type Undo struct {
	disks      *disk.Table
	pins       *pin.Pins
	catalog    *catalog.Catalog
	owners     *ownership.Owners
	publisher  *publication.Publisher
	durability *durability.Keeper
	inspector  *inspect.Inspector
}

// New creates an Undo.
func New(disks *disk.Table, pins *pin.Pins, cat *catalog.Catalog, owners *ownership.Owners, pub *publication.Publisher, dur *durability.Keeper, in *inspect.Inspector) *Undo {
	return &Undo{disks: disks, pins: pins, catalog: cat, owners: owners, publisher: pub, durability: dur, inspector: in}
}
