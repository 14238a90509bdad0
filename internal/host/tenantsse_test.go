package host

import (
	"context"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// TestTenantEncryptedByTheStore: every object of a tenant that the store is to encrypt is
// written with that setting, on each host and after a restart, and no other's is. A store
// that drops the setting, and one that has none, is found out before the tenant exists.
func TestTenantEncryptedByTheStore(t *testing.T) {
	h, url := s3test.Encrypting(t)
	dropping, _ := s3test.Start(t)
	key := tenantstest.Key(t)
	dirs, b := map[string]string{}, newBed(t)
	b.keys = append(b.keys, key)
	open := func(name, url string) *Host {
		t.Helper()
		store, err := objstore.Open(ctx, url, objstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		b.store = store
		if dirs[name] == "" {
			dirs[name] = t.TempDir()
		}
		return b.host(dirs[name], name)
	}
	request := api.TenantRequest{Name: "acme", OneKey: true, SSE: "aws:kms", KMSKey: "key-of-acme"}
	one, two := open("one", url), open("two", url)
	must[api.Tenant](t)(one.Custody().CreateTenant(ctx, request))
	for _, name := range []string{"acme/v", "open"} {
		must[api.Volume](t)(one.Create(ctx, api.CreateRequest{Name: name, Size: 8 * mib}))
		data := fill(t, one, name, 1, 0, 4*mib)
		must[api.Flush](t)(one.Flush(ctx, name))
		must[[]api.Fork](t)(two.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-fork"}))
		same(t, two, name+"-fork", 0, data)
		fill(t, two, name+"-fork", 2, 0, mib)
		must[api.Flush](t)(two.Flush(ctx, name+"-fork"))
	}
	if err := one.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	one = open("one", url)
	for _, name := range []string{"acme/v", "open"} {
		fill(t, one, name, 3, 0, mib)
		must[api.Flush](t)(one.Flush(ctx, name))
	}
	mine, others := 0, 0
	for what, asked := range h.Asked() {
		method, at, _ := strings.Cut(what, " ")
		if method != "PUT" {
			continue
		}
		own := strings.Contains("/"+at, "/t/acme/") || strings.Contains("/"+at, "/d/") || strings.Contains("/"+at, "/keys/")
		want := [3]string{}
		if own {
			want = [3]string{"aws:kms", "key-of-acme", "true"}
			mine++
		} else {
			others++
		}
		if asked != want {
			t.Errorf("%s was written with %q, want %q", at, asked, want)
		}
	}
	if mine < 6 || others < 6 {
		t.Errorf("%d objects of the tenant, %d others", mine, others)
	}
	for what, h := range map[string]*Host{"a store that drops it": open("three", dropping), "a store that has none": newBed(t).host(t.TempDir(), "four")} {
		r := request
		r.Keys = []string{key.String()}
		_, err := h.Custody().CreateTenant(ctx, r)
		if errs.KindOf(err) != errs.Unsupported {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := h.Custody().Tenant(ctx, "acme"); errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s: the tenant exists: %v", what, err)
		}
	}
	if _, err := two.Custody().CreateTenant(ctx, api.TenantRequest{Name: "x", OneKey: true, SSE: "rot13"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("%v", err)
	}
}
