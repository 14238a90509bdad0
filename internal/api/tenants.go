package api

import (
	"context"
	"net/http"
	"time"
)

// The states of a tenant.
const (
	TenantPlain  = "plain"  // it has no keys
	TenantSealed = "sealed" // what it has in the store is under its keys
	TenantMoving = "moving" // sealed, and some of what it had before is still plain
	TenantLocked = "locked" // sealed, and the keys are not here
)

// Tenant is what is known of a tenant and its keys.
type Tenant struct {
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Reason    string     `json:"reason,omitempty"` // why it is locked
	Domain    string     `json:"domain,omitempty"`
	Suite     string     `json:"suite,omitempty"`
	Keyring   uint64     `json:"keyring,omitempty"`
	OpenedBy  string     `json:"opened_by,omitempty"` // the provider that opened the keyring here
	Keys      []string   `json:"keys"`                // providers for whom it is wrapped
	Roots     []Root     `json:"roots"`
	Public    bool       `json:"public"`
	Names     string     `json:"names,omitempty"` // "hidden": from the store
	SSE       string     `json:"sse,omitempty"`
	KMSKey    string     `json:"kms_key,omitempty"`
	Isolated  []string   `json:"isolated,omitempty"` // names of the domains of its isolated volumes; not in lists
	CreatedAt *time.Time `json:"created_at,omitempty"`
}

// Root is a root of a tenant's keys, without the key.
type Root struct {
	Number    uint64    `json:"number"`
	State     string    `json:"state"` // current, old, retired
	CreatedAt time.Time `json:"created_at"`
}

// TenantRequest describes a new tenant.
type TenantRequest struct {
	Name      string   `json:"name"`
	Keys      []string `json:"keys,omitempty"`       // providers for whom to wrap its keyring; none: it is plain
	OneKey    bool     `json:"one_key,omitempty"`    // one provider is enough
	Suite     string   `json:"suite,omitempty"`      // aes-256-gcm or xchacha20-poly1305
	Public    bool     `json:"public,omitempty"`     // others may fork what it publishes
	HideNames bool     `json:"hide_names,omitempty"` // from the store, for good
	SSE       string   `json:"sse,omitempty"`        // encryption by the store
	KMSKey    string   `json:"kms_key,omitempty"`
}

// RewrapRequest wraps a tenant's keys anew.
type RewrapRequest struct {
	Keys   []string `json:"keys,omitempty"`
	Add    bool     `json:"add,omitempty"`     // Keys in addition to who has it now
	OneKey bool     `json:"one_key,omitempty"` // one provider is enough
}

// RotateRequest begins a new root.
type RotateRequest struct {
	Conv bool `json:"conv,omitempty"` // and another secret for the ids of blocks
}

// SealRequest gives a plain tenant keys, and moves what it has stored.
type SealRequest struct {
	Keys   []string `json:"keys,omitempty"`    // providers for whom to wrap its keyring
	OneKey bool     `json:"one_key,omitempty"` // one provider is enough
	Suite  string   `json:"suite,omitempty"`   // aes-256-gcm or xchacha20-poly1305
	Rate   uint64   `json:"rate,omitempty"`    // bytes a second to read at most; 0: no limit
}

// Sealing is what a call that seals a tenant has done.
type Sealing struct {
	Tenant  Tenant     `json:"tenant"`
	Volumes uint64     `json:"volumes"` // of which something was stored again; snapshots count
	Blocks  uint64     `json:"blocks"`  // that were stored again
	Bytes   uint64     `json:"bytes"`   // of those blocks
	Left    []Unsealed `json:"left"`    // what keeps the tenant from being sealed
}

// Unsealed is something of a tenant that is plain still.
type Unsealed struct {
	Volume string `json:"volume,omitempty"`
	Host   string `json:"host,omitempty"` // who has it
	Reason string `json:"reason"`
}

// KeyCheck is whether a provider of this host opens a keyring.
type KeyCheck struct {
	Key   string `json:"key"`            // for whom the keyring is wrapped
	With  string `json:"with,omitempty"` // what this host tried; none: it has nothing of that kind
	Opens bool   `json:"opens"`
	Error string `json:"error,omitempty"`
}

// RekeyRequest brings what a tenant has in the store under its current root.
type RekeyRequest struct {
	Rate uint64 `json:"rate,omitempty"` // bytes a second; 0: no limit
}

// Rekey is what was sealed again, and what is left.
type Rekey struct {
	Tenant
	Root        uint64   `json:"root"`         // the current one
	Packs       int      `json:"packs"`        // that gave way to new ones
	Bytes       int64    `json:"bytes"`        // of the new ones
	PacksLeft   int      `json:"packs_left"`   // under older roots: pinned, in use by an upload, or garbage
	CommitsLeft int      `json:"commits_left"` // under older roots, which go past retention
	Volumes     []string `json:"volumes"`      // whose newest commit is among those: they are to be flushed once
	Retired     []uint64 `json:"retired"`      // roots that are gone now
}

// TenantKeeper is a Backend that keeps the keys of tenants.
type TenantKeeper interface {
	CreateTenant(ctx context.Context, r TenantRequest) (Tenant, error)
	Tenants(ctx context.Context) ([]Tenant, error)
	Tenant(ctx context.Context, name string) (Tenant, error)
	EraseTenant(ctx context.Context, name string) (Tenant, error)
	CheckTenant(ctx context.Context, name string) ([]KeyCheck, error)
	RewrapTenant(ctx context.Context, name string, r RewrapRequest) (Tenant, error)
	RotateTenant(ctx context.Context, name string, r RotateRequest) (Tenant, error)
	RekeyTenant(ctx context.Context, name string, r RekeyRequest) (Rekey, error)
	SealTenant(ctx context.Context, name string, r SealRequest) (Sealing, error)
}

var tenantRoutes = []route{
	with(http.MethodPost, "/v1/tenants", func(ctx context.Context, k TenantKeeper, _ params, in TenantRequest) (Tenant, error) {
		return k.CreateTenant(ctx, in)
	}),
	with(http.MethodGet, "/v1/tenants", func(ctx context.Context, k TenantKeeper, _ params, _ None) ([]Tenant, error) {
		return k.Tenants(ctx)
	}),
	named(http.MethodGet, "/v1/tenants/{name}", TenantKeeper.Tenant),
	named(http.MethodDelete, "/v1/tenants/{name}", TenantKeeper.EraseTenant),
	named(http.MethodGet, "/v1/tenants/{name}/check", TenantKeeper.CheckTenant),
	changing(http.MethodPost, "/v1/tenants/{name}/rotate", TenantKeeper.RotateTenant),
	changing(http.MethodPost, "/v1/tenants/{name}/rewrap", TenantKeeper.RewrapTenant),
	changing(http.MethodPost, "/v1/tenants/{name}/rekey", TenantKeeper.RekeyTenant),
	changing(http.MethodPost, "/v1/tenants/{name}/seal", TenantKeeper.SealTenant),
}

// named is a route about the tenant in its path.
func named[Out any](method, path string, do func(TenantKeeper, context.Context, string) (Out, error)) route {
	return with(method, path, func(ctx context.Context, k TenantKeeper, p params, _ None) (Out, error) { return do(k, ctx, p.name()) })
}

// changing is named for a request with a body.
func changing[In, Out any](method, path string, do func(TenantKeeper, context.Context, string, In) (Out, error)) route {
	return with(method, path, func(ctx context.Context, k TenantKeeper, p params, in In) (Out, error) {
		return do(k, ctx, p.name(), in)
	})
}
