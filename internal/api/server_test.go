package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func serve(t *testing.T, o api.Options) (*apitest.Backend, string) {
	t.Helper()
	b := &apitest.Backend{}
	s := httptest.NewServer(api.Handler(b, o))
	t.Cleanup(s.Close)
	return b, s.URL
}

// do makes a request and returns the status and the body.
func do(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func mustFail(t *testing.T, status int, body string, wantStatus int, kind errs.Kind, words string) {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Errorf("status %d: %s", status, body)
		return
	}
	if status != wantStatus || e.Kind != kind.String() || !strings.Contains(e.Error, words) {
		t.Errorf("status %d, %s: %s; want %d, %s: …%s…", status, e.Kind, e.Error, wantStatus, kind, words)
	}
}

func TestBadRequests(t *testing.T) {
	_, url := serve(t, api.Options{})
	do(t, "POST", url+"/v1/volumes", `{"name":"vm1","size":1048576}`)
	for _, c := range []struct {
		method, path, body string
		status             int
		kind               errs.Kind
		words              string
	}{
		{"POST", "/v1/volumes", `{"name":"x","sizes":1}`, 400, errs.Invalid, `"sizes" is not known here, did you mean "size"?`},
		{"POST", "/v1/volumes", `{"zebra":1}`, 400, errs.Invalid, `"zebra" is not known`},
		{"POST", "/v1/volumes", `{"name":"x","size":"1G"}`, 400, errs.Invalid, "size cannot be a string"},
		{"POST", "/v1/volumes", `{"name":"x","size":-1}`, 400, errs.Invalid, "size cannot be a number"},
		{"POST", "/v1/volumes", `[]`, 400, errs.Invalid, "array"},
		{"POST", "/v1/volumes", `{"name":`, 400, errs.Invalid, "ends early"},
		{"POST", "/v1/volumes", `{"name":"x"}{}`, 400, errs.Invalid, "behind"},
		{"POST", "/v1/volumes", `nope`, 400, errs.Invalid, "not JSON"},
		{"POST", "/v1/volumes", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 400, errs.Invalid, "more than"},
		{"GET", "/v1/volumes?al=true", "", 400, errs.Invalid, `did you mean "all"?`},
		{"GET", "/v1/volumes?all=maybe", "", 400, errs.Invalid, "neither true nor false"},
		{"GET", "/v1/volumes?all=1&all=0", "", 400, errs.Invalid, "2 times"},
		{"GET", "/v1/volumes/vm1?x;y", "", 400, errs.Invalid, "query"},
		{"GET", "/v1/volumes/none", "", 404, errs.NotFound, "no volume none"},
		{"GET", "/v1/nothing", "", 404, errs.NotFound, "openapi.json"},
		{"GET", "/", "", 404, errs.NotFound, "openapi.json"},
		{"PUT", "/v1/volumes/vm1", "", 405, errs.Invalid, "only GET, PATCH, DELETE"},
		{"GET", "/v1/volumes/vm1/flush", "", 405, errs.Invalid, "only POST"},
		{"PUT", "/v1/volumes/vm9/image", "", 400, errs.Invalid, "size=BYTES"},
		{"PUT", "/v1/volumes/vm9/image?size=x", "", 400, errs.Invalid, "size=BYTES"},
		{"PUT", "/v1/volumes/vm9/image?size=1024", "raw bytes", 400, errs.Invalid, "application/vnd.glide.image"},
	} {
		status, body := do(t, c.method, url+c.path, c.body)
		mustFail(t, status, body, c.status, c.kind, c.words)
	}
}

// TestNames: the slash of a tenant may be escaped or not.
func TestNames(t *testing.T) {
	b, url := serve(t, api.Options{})
	for _, c := range []struct{ method, path, call string }{
		{"GET", "/v1/volumes/vm1", "Show vm1"},
		{"GET", "/v1/volumes/acme%2Fvm1", "Show acme/vm1"},
		{"GET", "/v1/volumes/acme/vm1", "Show acme/vm1"},
		{"GET", "/v1/volumes/acme%2Flog", "Show acme/log"},
		{"GET", "/v1/volumes/acme/log", "Log acme"},
		{"GET", "/v1/volumes/acme/vm1/log", "Log acme/vm1"},
		{"GET", "/v1/volumes/acme%2Fvm1/log", "Log acme/vm1"},
		{"GET", "/v1/volumes/acme/vm1@before/uri", "URI acme/vm1@before"},
		{"GET", "/v1/volumes/vm1%40before", "Show vm1@before"},
		{"DELETE", "/v1/volumes/acme/vm1@before?force=true", "Remove acme/vm1@before true"},
		{"POST", "/v1/volumes/acme/vm1/flush", "Flush acme/vm1"},
		{"GET", "/v1/diff?a=acme/vm1&b=vm2%40x", "Diff acme/vm1 vm2@x"},
		{"GET", "/v1/objects/t/acme/volumes/vm1/log/ff/01", "Dump t/acme/volumes/vm1/log/ff/01"},
	} {
		do(t, c.method, url+c.path, "")
		calls := b.Calls()
		if got := calls[len(calls)-1]; got != c.call {
			t.Errorf("%s %s called %q, want %q", c.method, c.path, got, c.call)
		}
	}
}

func TestEmptyLists(t *testing.T) {
	_, url := serve(t, api.Options{})
	do(t, "POST", url+"/v1/volumes", `{"name":"vm1","size":1048576}`)
	for _, path := range []string{"/v1/volumes/vm1/snapshots", "/v1/volumes/vm1/log"} {
		if status, body := do(t, "GET", url+path, ""); status != 200 || body != "[]\n" {
			t.Errorf("%s: %d %q, want []", path, status, body)
		}
	}
	if _, body := do(t, "GET", url+"/v1/diff?a=vm1&b=vm1", ""); !strings.Contains(body, `"ranges":[]`) {
		t.Errorf("diff: %s", body)
	}
	if _, body := do(t, "POST", url+"/v1/volumes/vm1/verify", ""); !strings.Contains(body, `"damaged":[]`) {
		t.Errorf("verify: %s", body)
	}
	do(t, "DELETE", url+"/v1/volumes/vm1", "")
	if status, body := do(t, "GET", url+"/v1/volumes", ""); status != 200 || body != "[]\n" {
		t.Errorf("list: %d %q, want []", status, body)
	}
}

// secret lets in who says the secret.
func secret(r *http.Request) (*auth.Principal, int, error) {
	if r.Header.Get("Authorization") != "Bearer secret" {
		return nil, http.StatusUnauthorized, errs.New(errs.Invalid, "this is not the token")
	}
	return auth.Owner(), 0, nil
}

func TestToken(t *testing.T) {
	_, url := serve(t, api.Options{Authenticate: secret})
	for _, says := range []string{"", "secret", "Bearer", "Bearer secre", "Bearer secret2", "Basic secret"} {
		status, body := do(t, "GET", url+"/v1/volumes", "", "Authorization", says)
		mustFail(t, status, body, 401, errs.Invalid, "token")
	}
	if status, body := do(t, "GET", url+"/v1/volumes", "", "Authorization", "Bearer secret"); status != 200 {
		t.Errorf("with the token: %d %s", status, body)
	}
	if status, _ := do(t, "GET", url+"/metrics", ""); status != 401 {
		t.Errorf("/metrics without a token: %d", status)
	}
	if status, _ := do(t, "GET", url+"/healthz", ""); status != 200 {
		t.Errorf("/healthz without a token: %d", status)
	}
}

// TestWebPages: a page in a browser cannot use a daemon on the same machine.
func TestWebPages(t *testing.T) {
	b, url := serve(t, api.Options{})
	status, body := do(t, "POST", url+"/v1/volumes", `{"name":"vm1","size":512}`, "Sec-Fetch-Site", "cross-site")
	mustFail(t, status, body, 403, errs.Invalid, "web pages")
	status, body = do(t, "POST", url+"/v1/volumes", `{"name":"vm1","size":512}`, "Origin", "http://example.org")
	mustFail(t, status, body, 403, errs.Invalid, "web pages")
	if calls := b.Calls(); len(calls) != 0 {
		t.Errorf("calls: %v", calls)
	}
}

func TestHealth(t *testing.T) {
	b, url := serve(t, api.Options{})
	if status, body := do(t, "GET", url+"/healthz", ""); status != 200 || body != `{"status":"ok","host":"host-1","version":"test"}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	b.Fail("Host", errs.New(errs.Unavailable, "stopping"))
	if status, _ := do(t, "GET", url+"/healthz", ""); status != 503 {
		t.Errorf("status %d", status)
	}
}

func TestPanic(t *testing.T) {
	s := httptest.NewServer(api.Handler(&panics{}, api.Options{}))
	defer s.Close()
	status, body := do(t, "GET", s.URL+"/v1/volumes/vm1", "")
	mustFail(t, status, body, 500, errs.Internal, "bug")
	if strings.Contains(body, "goroutine") {
		t.Errorf("a stack trace got out: %s", body)
	}
}

type panics struct{ api.Backend }

// TestTruncatedImport: whatever is cut off, nothing is imported.
func TestTruncatedImport(t *testing.T) {
	b, url := serve(t, api.Options{})
	var stream bytes.Buffer
	if err := api.WriteImage(&stream, api.ReadImage(bytes.NewReader(oneFrame), 8192)); err != nil {
		t.Fatal(err)
	}
	put := func(body string) (int, string) {
		return do(t, "PUT", url+"/v1/volumes/vm1/image?size=8192", body, "Content-Type", api.ImageType)
	}
	for n := range stream.Len() {
		if n > 40 && n < stream.Len()-40 && n%97 != 0 {
			continue
		}
		status, body := put(stream.String()[:n])
		mustFail(t, status, body, 422, errs.Corrupt, "whole")
	}
	if _, err := b.Show(t.Context(), "vm1"); !errors.Is(err, errs.NotFound) {
		t.Fatalf("half an image was imported: %v", err)
	}
	if status, body := put(stream.String()); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := put(stream.String()); status != 200 || !strings.Contains(body, `"unchanged":true`) {
		t.Fatalf("once more: %d %s", status, body)
	}
}

// oneFrame is an image of 8192 bytes, 4096 of them ones at 4096.
var oneFrame = func() []byte {
	var b bytes.Buffer
	if err := api.WriteImage(&b, &one{}); err != nil {
		panic(err)
	}
	return b.Bytes()
}()

type one struct{ done bool }

func (*one) Size() uint64 { return 8192 }

func (o *one) Next() (api.Extent, error) {
	if o.done {
		return api.Extent{}, io.EOF
	}
	o.done = true
	return api.Extent{Off: 4096, Data: bytes.Repeat([]byte{1}, 4096)}, nil
}
