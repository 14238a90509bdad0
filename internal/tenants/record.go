package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/sealed"
)

const (
	// Prefix begins the keys of the records of tenants.
	Prefix  = "tenants/"
	format  = "glide-tenant"
	version = 1

	// HiddenNames says that the names of a tenant's volumes are hidden from the store.
	HiddenNames = "hidden"
)

// recordKey is the key of the record of a domain by its name.
func recordKey(name string) string { return Prefix + name }

// NameOf returns the name of the domain whose record has a key.
func NameOf(key string) (name string, ok bool) {
	name, ok = strings.CutPrefix(key, Prefix)
	_, _, err := commitlog.ParseDomainName(name)
	return name, ok && err == nil
}

// Record is what the store says of a tenant, or of an isolated domain. Nothing proves it: who can write to the store
// can change it. What matters is in the keyring, or is remembered.
type Record struct {
	Tenant    string // the name of the domain
	Domain    uint32 // 0: it is plain
	Public    bool   // others may fork what it publishes
	Hidden    bool   // the store does not know the names of its volumes
	Moving    bool   // it had plain volumes when it was sealed, which may be in use still
	SSE       string // encryption by the store: "" or as in PutObject
	KMSKey    string // for SSE
	CreatedAt time.Time
}

// wire is a Record in the store.
type wire struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	Tenant    string    `json:"tenant"`
	Domain    string    `json:"domain,omitempty"` // 8 hexadecimal digits
	Public    bool      `json:"public,omitempty"`
	Names     string    `json:"names,omitempty"` // "hidden", or clear
	Moving    bool      `json:"moving,omitempty"`
	SSE       string    `json:"sse,omitempty"`
	KMSKey    string    `json:"kms_key,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// DomainText is a domain in text: 8 hexadecimal digits; "" is plain.
func DomainText(domain uint32) string {
	if domain == 0 {
		return ""
	}
	return fmt.Sprintf("%08x", domain)
}

func (r *Record) encode() ([]byte, error) {
	names := ""
	if r.Hidden {
		names = HiddenNames
	}
	return sealed.Marshal(wire{format, version, r.Tenant, DomainText(r.Domain), r.Public, names, r.Moving, r.SSE, r.KMSKey, r.CreatedAt.UTC()})
}

// decode reads the record of a tenant. What encode cannot have written is errs.Corrupt, a
// newer version errs.Unsupported.
func decode(name string, raw []byte) (*Record, error) {
	body, is, err := sealed.Open(raw)
	var w wire
	switch {
	case err != nil:
	case !is || json.Unmarshal(body, &w) != nil || w.Format != format || w.Version < version:
		err = errs.New(errs.Corrupt, "it is no record of a tenant")
	case w.Version > version:
		err = errs.New(errs.Unsupported, "it is of version %d; update Glide", w.Version)
	case w.Tenant != name:
		err = errs.New(errs.Corrupt, "it is the record of another tenant")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", recordKey(name), err)
	}
	r := &Record{Tenant: w.Tenant, Public: w.Public, Hidden: w.Names == HiddenNames, Moving: w.Moving, SSE: w.SSE, KMSKey: w.KMSKey, CreatedAt: w.CreatedAt}
	if w.Domain != "" {
		n, err := strconv.ParseUint(w.Domain, 16, 32)
		if r.Domain = uint32(n); err != nil || DomainText(r.Domain) != w.Domain {
			return nil, errs.New(errs.Corrupt, "%s: the domain %.20q is none", recordKey(name), w.Domain)
		}
	}
	if _, isolated, _ := commitlog.ParseDomainName(name); isolated != 0 && isolated != r.Domain {
		return nil, errs.New(errs.Corrupt, "%s: it is the record of domain %08x", recordKey(name), r.Domain)
	}
	return r, nil
}

// load returns the record of a tenant; one that has none is errs.NotFound.
func load(ctx context.Context, store objstore.Store, name string) (*Record, error) {
	raw, err := store.Get(ctx, recordKey(name))
	if err != nil {
		return nil, err
	}
	return decode(name, raw)
}

// names are those of the domains that have records whose keys begin so.
func names(ctx context.Context, store objstore.Store, prefix string) (list []string, err error) {
	return list, objstore.ListAll(ctx, store, prefix, "", func(in objstore.Info) bool {
		if name, ok := NameOf(in.Key); ok {
			list = append(list, name)
		}
		return true
	})
}

// Records calls fn for the record of every tenant that has one, and of every isolated domain,
// by name. One that cannot be read is passed with the error and nothing but its name.
func Records(ctx context.Context, store objstore.Store, fn func(Record, error) error) error {
	names, err := names(ctx, store, Prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := load(ctx, store, name)
		switch {
		case errors.Is(err, errs.NotFound):
			continue
		case err != nil:
			r = &Record{Tenant: name}
		}
		if err := fn(*r, err); err != nil {
			return err
		}
	}
	return nil
}
