package objstore_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/s3test"
)

// byTenant is the setting of two tenants.
func byTenant(key string) objstore.Encryption {
	switch {
	case strings.HasPrefix(key, "d/0000000a/"):
		return objstore.Encryption{Mode: "aws:kms", KMSKey: "key-a", BucketKey: true}
	case strings.HasPrefix(key, "d/0000000b/"):
		return objstore.Encryption{Mode: "AES256"}
	}
	return objstore.Encryption{}
}

// TestEncryptFor: each object is encrypted as its key says, with both kinds of writes, with a
// prefix and without, and as the URL says where the key says nothing.
func TestEncryptFor(t *testing.T) {
	h, store := s3test.Encrypting(t)
	for _, c := range []struct{ path, params string }{{"", ""}, {"", "&sse=AES256"}, {"/some/prefix", ""}} {
		h.Forget()
		own := [3]string{}
		if c.params != "" {
			own[0] = "AES256"
		}
		s := open(t, strings.Replace(store, "?", c.path+"?", 1)+c.params, objstore.Options{Retry: impatient})
		write := func(key string) {
			t.Helper()
			for i, put := range []func(context.Context, string, []byte) error{s.PutIfAbsent, s.Put} {
				if err := put(t.Context(), key, []byte("data")); err != nil {
					t.Fatalf("%s, %d: %v", key, i, err)
				}
			}
			if got, err := s.Get(t.Context(), key); err != nil || string(got) != "data" {
				t.Errorf("%s: %q, %v", key, got, err)
			}
			if err := s.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
		}
		asked := func(key string, want [3]string) {
			t.Helper()
			if got, ok := h.Asked()["PUT "+strings.TrimPrefix(c.path+"/", "/")+key]; !ok || got != want {
				t.Errorf("%q%s: %s was to be %q, and is %q", c.path, c.params, key, want, got)
			}
		}
		write("d/0000000a/packs/x")
		asked("d/0000000a/packs/x", own)
		if err := objstore.SetEncryption(s, byTenant); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string][3]string{"d/0000000a/packs/x": {"aws:kms", "key-a", "true"}, "d/0000000b/packs/x": {"AES256"}, "packs/x": own, "d/0000000aa/x": own} {
			write(key)
			asked(key, want)
		}
		if err := objstore.SetEncryption(s, nil); err != nil {
			t.Fatal(err)
		}
		write("d/0000000a/packs/x")
		asked("d/0000000a/packs/x", own)
	}
}

// TestEncryptForAnswers: what was to be encrypted by its key and was not is an error, of that
// object alone.
func TestEncryptForAnswers(t *testing.T) {
	kms := objstore.Encryption{Mode: "aws:kms", KMSKey: "k1", BucketKey: true}
	for _, c := range []struct {
		asked                  objstore.Encryption
		how, key, bucket, want string
	}{
		{kms, "aws:kms", "arn:aws:kms:r:1:key/k1", "true", ""},
		{kms, "", "", "", "did not encrypt it"},
		{kms, "AES256", "", "", "with AES256, and not"},
		{kms, "aws:kms", "k2", "true", "and not with kms_key=k1"},
		{kms, "aws:kms", "k1", "", "without a bucket key"},
		{kms, "aws:kms", "k1", "false", "without a bucket key"},
		{objstore.Encryption{Mode: "AES256"}, "AES256", "", "", ""},
		{objstore.Encryption{Mode: "AES256"}, "", "", "", "did not encrypt it"},
	} {
		s := fake(t, "", func(w http.ResponseWriter, r *http.Request) {
			for name, value := range map[string]string{"": c.how, "-Aws-Kms-Key-Id": c.key, "-Bucket-Key-Enabled": c.bucket} {
				if value != "" {
					w.Header().Set("X-Amz-Server-Side-Encryption"+name, value)
				}
			}
		})
		if err := objstore.SetEncryption(s, func(key string) objstore.Encryption {
			if key == "mine" {
				return c.asked
			}
			return objstore.Encryption{}
		}); err != nil {
			t.Fatal(err)
		}
		for _, put := range []func(context.Context, string, []byte) error{s.Put, s.PutIfAbsent} {
			if err := put(t.Context(), "mine", nil); (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v: %v", c, err)
			}
			if err := put(t.Context(), "other", nil); err != nil {
				t.Errorf("%+v: another object: %v", c, err)
			}
		}
	}
}

// TestEncryptForRefused: stores that cannot encrypt, or do not, refuse the objects for which
// it is asked, before anything is stored if they know it, and take the others. A setting
// without sense goes nowhere.
func TestEncryptForRefused(t *testing.T) {
	server, _ := s3test.Start(t)
	for url, says := range map[string]string{"file://" + t.TempDir(): "does not encrypt", "mem://": "does not encrypt", server: "did not encrypt it"} {
		s := open(t, url, objstore.Options{Retry: impatient})
		if err := objstore.SetEncryption(s, byTenant); err != nil {
			t.Fatal(err)
		}
		for i, put := range []func(context.Context, string, []byte) error{s.Put, s.PutIfAbsent} {
			for _, key := range []string{"d/0000000a/packs/x", "d/0000000b/packs/x"} {
				key += strconv.Itoa(i) // a store that drops the setting has stored the object
				if err := put(t.Context(), key, nil); !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %v", s, err)
				}
				if _, err := s.Head(t.Context(), key); url != server && !errors.Is(err, errs.NotFound) {
					t.Errorf("%s stored it: %v", s, err)
				}
			}
			if err := put(t.Context(), "packs/"+says[:3]+string(rune('a'+len(url)%20)), nil); err != nil && !errors.Is(err, errs.Exists) {
				t.Errorf("%s: what nobody asked to encrypt: %v", s, err)
			}
		}
	}
	s := fake(t, "", func(http.ResponseWriter, *http.Request) { t.Error("a request") })
	for _, x := range []objstore.Encryption{{Mode: "rot13"}, {KMSKey: "k"}, {Mode: "AES256", KMSKey: "k"}, {Mode: "AES256", BucketKey: true}, {BucketKey: true}} {
		if err := objstore.SetEncryption(s, func(string) objstore.Encryption { return x }); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), "a", nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", x, err)
		}
	}
	other := struct{ objstore.Store }{s}
	if err := objstore.SetEncryption(other, byTenant); !errors.Is(err, errs.Unsupported) {
		t.Errorf("a store that nobody knows: %v", err)
	}
}

// TestEncryptForChanges: the setting may change while objects are written.
func TestEncryptForChanges(t *testing.T) {
	s := fake(t, "", func(w http.ResponseWriter, r *http.Request) {
		if how := r.Header.Get("X-Amz-Server-Side-Encryption"); how != "" {
			w.Header().Set("X-Amz-Server-Side-Encryption", how)
		}
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if err := s.Put(t.Context(), "d/0000000b/x", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 200 {
		by := objstore.EncryptFor(byTenant)
		if i%2 == 1 {
			by = nil
		}
		if err := objstore.SetEncryption(s, by); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
