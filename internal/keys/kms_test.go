package keys_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/keys/kmstest"
	"github.com/paraglide/glide/internal/seal"
)

// TestKMS: what a KMS does to the keys of a domain is told apart, and the domain opens
// again when it can.
func TestKMS(t *testing.T) {
	ctx, server := t.Context(), kmstest.Start(t)
	arn, store := server.NewKey(), newStore()
	recipient, identity := newAge(t)
	k := keyrings(t, store, "kms:"+arn, recipient)
	r, err := k.Create(ctx, keys.Birth{Domain: domain, Tenant: "acme", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	host := keyrings(t, store, "kms:"+arn)
	expect := func(what string, want error, says string) {
		t.Helper()
		_, err := host.Open(ctx, domain, "acme", r.Seen())
		if want == nil {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		isLocked(t, err, want)
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%s: %v", what, err)
	}
	expect("in order", nil, "")

	if _, err := server.Client.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	expect("disabled", keys.ErrDenied, "enable it")
	if _, err := host.Rotate(ctx, r, false); !errors.Is(err, keys.ErrDenied) {
		t.Errorf("disabled, rotated: %v", err)
	}
	if _, err := server.Client.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	expect("enabled", nil, "")

	server.Kill()
	expect("down", keys.ErrAway, "does not answer")
	if _, err := keyrings(t, store, "kms:"+arn, identity).Open(ctx, domain, "acme", r.Seen()); err != nil {
		t.Errorf("down, with age beside it: %v", err)
	}
	server.Restart()
	expect("up", nil, "")

	if _, err := server.Client.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	expect("to be deleted", keys.ErrDenied, "cancel its deletion")
	// The age identity opens it, and wraps it for another key.
	other := server.NewKey()
	saved, err := keyrings(t, store, identity).Open(ctx, domain, "acme", r.Seen())
	if err != nil {
		t.Fatal(err)
	}
	if r, err = keyrings(t, store, identity).Rewrap(ctx, saved, parse(t, "kms:"+other, recipient), false); err != nil {
		t.Fatal(err)
	}
	expect("wrapped for another key", keys.ErrWrongKey, other)
	host = keyrings(t, store, "kms:"+other)
	expect("with that key", nil, "")
	// Who has age only can rotate: KMS is written to by its ARN.
	if r, err = keyrings(t, store, identity).Rotate(ctx, r, false); err != nil {
		t.Fatal(err)
	}
	expect("rotated", nil, "")
}

// TestKMSContext: a wrap is for one domain, one key, and not to be changed.
func TestKMSContext(t *testing.T) {
	ctx, server := t.Context(), kmstest.Start(t)
	ps := parse(t, "kms:"+server.NewKey(), "kms:"+server.NewKey(), "kms:arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000")
	w, err := ps[0].Wrap(ctx, domain, seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ps[0].Unwrap(ctx, domain, w); err != nil {
		t.Error(err)
	}
	_, err = ps[0].Unwrap(ctx, domain+1, w)
	isLocked(t, err, keys.ErrWrongKey)
	_, err = ps[1].Unwrap(ctx, domain, w)
	isLocked(t, err, keys.ErrWrongKey)
	moved := w
	moved.ID, _ = strings.CutPrefix(ps[1].String(), "kms:")
	_, err = ps[1].Unwrap(ctx, domain, moved)
	isLocked(t, err, keys.ErrWrongKey)
	w.Blob[len(w.Blob)-1] ^= 1
	_, err = ps[0].Unwrap(ctx, domain, w)
	isLocked(t, err, keys.ErrWrongKey)
	_, err = ps[2].Wrap(ctx, domain, seal.NewKey())
	isLocked(t, err, keys.ErrDenied)

	// Something that accepts connections and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	k := keyrings(t, newStore(), ps[0].String(), newKey(t))
	r, err := k.Create(ctx, keys.Birth{Domain: domain, Tenant: "acme", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://"+silent.Addr().String())
	host := &keys.Keyrings{Store: k.Store, Providers: ps[:1], Limit: 300 * time.Millisecond, Now: time.Now}
	_, err = host.Open(ctx, domain, "acme", r.Seen())
	isLocked(t, err, keys.ErrAway)
	if !strings.Contains(err.Error(), "did not answer within 300ms") {
		t.Error(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", server.URL)

	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	began := time.Now()
	_, err = ps[0].Unwrap(ctx, domain, w)
	isLocked(t, err, keys.ErrAway)
	if time.Since(began) > time.Minute || errors.Is(err, errs.NotFound) {
		t.Errorf("without credentials: %v after %v", err, time.Since(began))
	}
	t.Log(err)
}
