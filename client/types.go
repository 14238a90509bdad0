package client

import (
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// The types of the API, under names that programs outside of Glide can use.
type (
	// Token is a token as its list shows it.
	Token = api.Token
	// Tenant is what is known of a tenant and its keys.
	Tenant = api.Tenant
	// TenantRequest describes a new tenant.
	TenantRequest = api.TenantRequest
	// SealRequest gives a plain tenant keys.
	SealRequest = api.SealRequest
	// Sealing is what a call that seals a tenant has done.
	Sealing = api.Sealing
	// Unsealed is something of a tenant that is plain still.
	Unsealed = api.Unsealed
	// RewrapRequest wraps a tenant's keys anew.
	RewrapRequest = api.RewrapRequest
	// Rekey is what was sealed again, and what is left.
	Rekey = api.Rekey
	// KeyCheck is whether a provider opens a keyring.
	KeyCheck = api.KeyCheck
	// NewToken is a token that was just made, with its text.
	NewToken = api.NewToken
	// TokenRequest asks for a token.
	TokenRequest = api.TokenRequest
	// Volume is what ls and show print.
	Volume = api.Volume
	// CreateRequest asks for a new, empty volume.
	CreateRequest = api.CreateRequest
	// ForkRequest asks for one fork, or several of one cut.
	ForkRequest = api.ForkRequest
	// Fork is one new fork.
	Fork = api.Fork
	// Flush is what a flush did.
	Flush = api.Flush
	// Import is what an import did.
	Import = api.Import
	// Removed is a removed volume that can be restored.
	Removed = api.Removed
	// Snapshot is one snapshot of a volume.
	Snapshot = api.Snapshot
	// Commit is one entry of a volume's history.
	Commit = api.Commit
	// Diff says how two volumes differ.
	Diff = api.Diff
	// Cost is what cost prints.
	Cost = api.Cost
	// CauseCost is the requests that have one cause.
	CauseCost = api.CauseCost
	// Space is what data takes up.
	Space = api.Space
	// SnapshotUsage is the space that one snapshot uses.
	SnapshotUsage = api.SnapshotUsage
	// Usage is what df prints.
	Usage = api.Usage
	// Stats is what stats prints.
	Stats = api.Stats
	// Verify is what verify found.
	Verify = api.Verify
	// Hydrate is what hydrate brought to the host.
	Hydrate = api.Hydrate
	// Check is one check of doctor.
	Check = api.Check
	// Host describes the daemon.
	Host = api.Host
	// Settings is what set changes.
	Settings = api.Settings
	// ReleaseRequest asks a volume's owner to release it to another host.
	ReleaseRequest = api.ReleaseRequest
	// Attachment is a volume attached as a block device of the daemon's machine.
	Attachment = api.Attachment
	// AttachRequest attaches a volume as a block device.
	AttachRequest = api.AttachRequest
	// DetachRequest names a volume or a device.
	DetachRequest = api.DetachRequest
	// StoreHost is a host that the store knows.
	StoreHost = api.StoreHost
	// Forgotten describes what was released for a forgotten host.
	Forgotten = api.Forgotten
	// CollectRequest asks for a run of the garbage collector.
	CollectRequest = api.CollectRequest
	// Scrub is what a scrub found.
	Scrub = api.Scrub
	// Collection is what a run of the garbage collector found and did.
	Collection = api.Collection
	// Skipped is a domain whose garbage stays as long as its keys are not here.
	Skipped = api.Skipped
	// Planned is something that an open round of it has flagged.
	Planned = api.Planned
	// CollectStatus describes its newest round.
	CollectStatus = api.CollectStatus
	// Event is something that happened on a host.
	Event = api.Event
	// Dump is an object of the store, decoded.
	Dump = api.Dump
	// Health is the answer of a daemon that serves.
	Health = api.Health
	// Source is an image that is read piece by piece.
	Source = api.Source
	// Extent is a piece of an image.
	Extent = api.Extent
	// Kind is the kind of an error.
	Kind = errs.Kind
)

// The kinds of errors.
const (
	Internal    = errs.Internal
	Invalid     = errs.Invalid
	NotFound    = errs.NotFound
	Exists      = errs.Exists
	Busy        = errs.Busy
	WouldLose   = errs.WouldLose
	Corrupt     = errs.Corrupt
	NoSpace     = errs.NoSpace
	Unavailable = errs.Unavailable
	Fenced      = errs.Fenced
	Unsupported = errs.Unsupported
	ReadOnly    = errs.ReadOnly
)

// KindOf is the kind of an error that a method returned.
func KindOf(err error) Kind { return errs.KindOf(err) }
