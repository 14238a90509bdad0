package objstore

import (
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A new secret of the same access key is signed with.
func TestSecretChanges(t *testing.T) {
	at := time.Unix(1e9, 0)
	sign := func(s *signer, secret string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://host/bucket/key", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", "identity")
		if err := s.SignHTTP(t.Context(), aws.Credentials{AccessKeyID: "same", SecretAccessKey: secret}, r, "hash", "s3", "region", at); err != nil {
			t.Fatal(err)
		}
		if r.Header.Get("Accept-Encoding") != "identity" {
			t.Error("a header that is not signed is not sent, either")
		}
		return r.Header.Get("Authorization")
	}
	s := &signer{}
	for _, secret := range []string{"one", "two", "one"} {
		if got, want := sign(s, secret), sign(&signer{}, secret); got != want {
			t.Errorf("with secret %s: %s, want %s", secret, got, want)
		}
	}
}
