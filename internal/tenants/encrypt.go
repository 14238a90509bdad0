package tenants

import (
	"fmt"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Encryption says how the store is to encrypt an object, by its key: what is of a tenant
// whose record says so, its packs, commits and keyrings. It is an objstore.EncryptFor.
func (t *Tenants) Encryption(key string) objstore.Encryption {
	by := t.encrypt.Load()
	if by == nil {
		return objstore.Encryption{}
	}
	for at := range len(key) { // up to the second slash
		if key[at] == '/' && strings.Contains(key[:at], "/") {
			return (*by)[key[:at+1]]
		}
	}
	return objstore.Encryption{}
}

// encryptAs makes Encryption tell what a record says. A record that the store cannot
// follow is errs.Unsupported.
func (t *Tenants) encryptAs(r *Record) error {
	if r.SSE == "" || r.Domain == 0 {
		return nil
	}
	e := objstore.Encryption{Mode: r.SSE, KMSKey: r.KMSKey, BucketKey: r.SSE == "aws:kms"}
	if err := e.Validate(); err != nil {
		return fmt.Errorf("domain %08x: %w", r.Domain, err)
	}
	if !t.o.Encrypts {
		return errs.New(errs.Unsupported, "domain %08x is to be encrypted by the store (%s), and this store cannot do that for single objects: use s3://", r.Domain, r.SSE)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	by := map[string]objstore.Encryption{}
	if old := t.encrypt.Load(); old != nil {
		for prefix, e := range *old {
			by[prefix] = e
		}
	}
	for _, prefix := range []string{"t/" + r.Tenant + "/", "d/" + DomainText(r.Domain) + "/", "keys/" + DomainText(r.Domain) + "/"} {
		by[prefix] = e
	}
	t.encrypt.Store(&by)
	return nil
}
