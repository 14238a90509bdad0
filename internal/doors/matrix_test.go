package doors

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/auth"
)

// operation is a route as the OpenAPI document has it: a route that is not there, or has no
// verb, fails the tests of package api.
type operation struct {
	method, path string
	Verb         string `json:"x-verb"`
	open         bool
}

func operations(t *testing.T) (list []operation) {
	t.Helper()
	raw, err := os.ReadFile("../api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Verb     string             `json:"x-verb"`
			Security *[]json.RawMessage `json:"security"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			list = append(list, operation{strings.ToUpper(method), path, op.Verb, op.Security != nil && len(*op.Security) == 0})
		}
	}
	slices.SortFunc(list, func(a, b operation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	if len(list) < 45 {
		t.Fatalf("%d routes", len(list))
	}
	return list
}

// bodies are what routes want to be told of a volume. The others take nothing.
var bodies = map[string]string{
	"POST /v1/volumes":                  `{"name":"%s","size":4096}`,
	"POST /v1/forks":                    `{"source":"%s","name":"kid"}`,
	"POST /v1/volumes/{name}/rename":    `{"to":"renamed"}`,
	"POST /v1/volumes/{name}/resize":    `{"size":1048576}`,
	"POST /v1/volumes/{name}/snapshots": `{"name":"s"}`,
	"POST /v1/volumes/{name}/rollback":  `{"to":"s0"}`,
	"POST /v1/tokens":                   `{"tenant":"acme","verbs":["read"]}`,
	"PATCH /v1/volumes/{name}":          `{"iops":"0"}`,
}

// bed is a daemon's doors before volumes of three tenants.
type bed struct {
	t *testing.T
	d *Doors
	b *apitest.Backend

	tls *tls.ConnectionState // of requests

	file string // of tokens
}

func newBed(t *testing.T) *bed {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	tokens, err := auth.OpenTokens(file, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, file: file, d: New(tokens, func() string { return "common" }, nil, func() *x509.CertPool { return nil }, time.Now, nil), b: &apitest.Backend{}}
	for _, name := range []string{"plain", "acme/web", "acme/db", "other/web"} {
		if _, err := b.b.Create(t.Context(), api.CreateRequest{Name: name, Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.b.Snapshot(t.Context(), name, "s0", ""); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// token makes a token.
func (b *bed) token(tenant, verbs string, volumes ...string) string {
	b.t.Helper()
	x, err := keeper{b.b, b.d}.NewToken(b.t.Context(), api.TokenRequest{Tenant: tenant, Verbs: strings.Split(verbs, ","), Volumes: volumes})
	if err != nil {
		b.t.Fatal(err)
	}
	return x.Secret
}

// ask makes a request of a principal, about a volume.
func (b *bed) ask(op operation, bound *auth.Principal, local bool, token, volume string) (int, string, string) {
	b.t.Helper()
	h := api.Handler(b.b, api.Options{Authenticate: b.d.API(bound, local), Scope: b.d.Scope(b.b), Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	path := strings.NewReplacer("{name}", strings.ReplaceAll(volume, "/", "%2F"), "{id}", "00000000", "{key}", "packs/x").Replace(op.path)
	switch op.path {
	case "/v1/diff":
		path += "?a=" + volume + "&b=" + volume
	case "/v1/volumes/{name}/image":
		path += "?size=4096"
		if op.method == http.MethodGet {
			path = strings.TrimSuffix(path, "?size=4096")
		}
	}
	body := bodies[op.method+" "+op.path]
	if strings.Contains(body, "%s") {
		body = fmt.Sprintf(body, volume)
	}
	r := httptest.NewRequest(op.method, path, strings.NewReader(body))
	switch {
	case op.method == http.MethodPut:
		r.Header.Set("Content-Type", api.ImageType)
	case body != "":
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.TLS = b.tls
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	raw, err := io.ReadAll(w.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	var e api.Error
	_ = json.Unmarshal(raw, &e) // it may be no error
	return w.Code, e.Kind, string(raw)
}

// aboutVolume tells whether an operation names a volume.
func (op operation) aboutVolume() bool {
	return strings.HasPrefix(op.path, "/v1/volumes/{name}") || op.path == "/v1/diff" || op.path == "/v1/forks"
}

// ofHost are routes whose answer is about the host as a whole.
var ofHost = []string{"/v1/cost", "/v1/stats"}

// TestEveryRoute asks for every route that the OpenAPI document has as every kind of
// principal: with and without its verb, for a volume of his own, for one of somebody else,
// and for one that does not exist.
func TestEveryRoute(t *testing.T) {
	verbs := strings.Split(auth.All.String(), ",")
	for _, op := range operations(t) {
		t.Run(op.method+" "+op.path, func(t *testing.T) {
			// Nobody, and somebody with a wrong token, over TCP.
			for _, token := range []string{"", "wrong", "glide_00000000_0000000000000000000000000000000000000000000_000000"} {
				b := newBed(t)
				calls := len(b.b.Calls())
				status, _, body := b.ask(op, nil, false, token, "acme/web")
				if (status == http.StatusUnauthorized) == op.open {
					t.Errorf("token %q: %d %s", token, status, body)
				}
				if n := len(b.b.Calls()); n != calls && !op.open {
					t.Errorf("token %q: the host was asked", token)
				}
			}
			// The owner of the host, at his socket or with the common token.
			for _, token := range []string{"", "common"} {
				if status, kind, body := newBed(t).ask(op, nil, token == "", token, "acme/web"); kind == "denied" || status == http.StatusUnauthorized {
					t.Errorf("the owner: %d %s", status, body)
				}
			}
			for _, verb := range verbs {
				t.Run(verb, func(t *testing.T) { oneVerb(t, op, verb) })
			}
			bounds(t, op)
			certificates(t, op)
		})
	}
}

// may tells whether verbs allow what needs one of others.
func may(verb, needs string) bool {
	v, err := auth.ParseVerbs(verb)
	if err != nil {
		panic(err)
	}
	if needs == "" {
		return true
	}
	n, err := auth.ParseVerbs(needs)
	if err != nil {
		panic(err)
	}
	return (&auth.Principal{Verbs: v}).MayAny(n)
}

// oneVerb asks for a route with tokens of one verb.
func oneVerb(t *testing.T, op operation, verb string) {
	b := newBed(t)
	everywhere := b.token("*", verb)
	status, kind, body := b.ask(op, nil, false, everywhere, "acme/web")
	if denied := kind == "denied" || status == http.StatusUnauthorized; denied == (op.open || may(verb, op.Verb)) {
		t.Errorf("a token for all tenants: %d %s", status, body)
	}
	if verb == "peer" || verb == "admin" {
		return // there are none for one tenant
	}
	b = newBed(t)
	token := b.token("acme", verb)
	if !op.open && !may(verb, op.Verb) {
		// It is refused alike, whatever it names, and the host is not asked.
		calls := len(b.b.Calls())
		var answers []string
		for _, name := range []string{"web", "acme/web", "other/web", "other/none", "none"} {
			status, kind, body := b.ask(op, nil, false, token, name)
			if status != http.StatusForbidden || kind != "denied" {
				t.Errorf("%s: %d %s", name, status, body)
			}
			answers = append(answers, body)
		}
		if len(slices.Compact(answers)) != 1 {
			t.Errorf("the refusals tell: %q", answers)
		}
		if len(b.b.Calls()) != calls {
			t.Error("the host was asked")
		}
		return
	}
	for _, name := range []string{"web", "acme/web"} {
		status, kind, body := newBedWith(t, &token, "acme", verb).ask(op, nil, false, token, name)
		if host := slices.Contains(ofHost, op.path); status == http.StatusUnauthorized || (kind == "denied") != host {
			t.Errorf("%s, his own: %d %s", name, status, body)
		}
		tellsNothing(t, op, body)
	}
	foreign(t, op, func(name string) (int, string, []string) {
		b := newBedWith(t, &token, "acme", verb)
		before := len(b.b.Calls())
		status, _, body := b.ask(op, nil, false, token, name)
		return status, body, b.b.Calls()[before:]
	}, "other/web", "other/none", "default/plain")
}

// tellsNothing checks that an answer does not tell of other tenants' volumes.
func tellsNothing(t *testing.T, op operation, body string) {
	t.Helper()
	if op.path != "/v1/openapi.json" && (strings.Contains(body, "other") || strings.Contains(body, "plain")) {
		t.Errorf("it tells of others: %s", body)
	}
}

func newBedWith(t *testing.T, token *string, tenant, verb string, volumes ...string) *bed {
	b := newBed(t)
	*token = b.token(tenant, verb, volumes...)
	return b
}

var tokenID = regexp.MustCompile("token [0-9a-f]{8}")

// foreign checks that names that are not the principal's are answered alike, whether they
// exist or not, and that the host is not asked about them.
func foreign(t *testing.T, op operation, ask func(name string) (int, string, []string), names ...string) {
	t.Helper()
	if !op.aboutVolume() {
		return
	}
	var answers []string
	for _, name := range names {
		status, body, calls := ask(name)
		want := http.StatusNotFound
		if op.method == http.MethodPut { // an import: it would make the volume
			want = http.StatusForbidden
		}
		if status != want {
			t.Errorf("%s, somebody else's: %d %s", name, status, body)
		}
		for _, c := range calls {
			if strings.Contains(c, name) || strings.Contains(c, strings.TrimPrefix(name, "default/")) {
				t.Errorf("the host was asked: %s", c)
			}
		}
		answers = append(answers, tokenID.ReplaceAllString(strings.ReplaceAll(body, name, "NAME"), "token"))
	}
	if len(slices.Compact(answers)) != 1 {
		t.Errorf("the answers tell what exists: %q", answers)
	}
}

// bounds asks at sockets that are bound to a tenant, and to a volume.
func bounds(t *testing.T, op operation) {
	for _, volume := range []string{"", "web"} {
		p := auth.Bound("acme", volume)
		b := newBed(t)
		// Whatever token is shown, the socket decides.
		for _, token := range []string{"", "common", "wrong"} {
			status, kind, body := b.ask(op, p, true, token, "web")
			want := op.Verb == "" || may("read,use,manage", op.Verb)
			if slices.Contains(ofHost, op.path) || op.path == "/v1/volumes" && op.method == http.MethodPost {
				want = kind != "denied" // checked elsewhere
			}
			if volume != "" && (op.path == "/v1/forks" || strings.HasSuffix(op.path, "/rename")) {
				want = false // another name than the one that the socket is for
			}
			if (kind != "denied") != want || status == http.StatusUnauthorized {
				t.Errorf("a socket of acme/%s, token %q: %d %s", volume, token, status, body)
			}
			tellsNothing(t, op, body)
		}
		if op.Verb == "" || !may("read,use,manage", op.Verb) {
			continue
		}
		names := []string{"other/web", "other/none"}
		if volume != "" {
			names = append(names, "db", "none")
		}
		foreign(t, op, func(name string) (int, string, []string) {
			b := newBed(t)
			before := len(b.b.Calls())
			status, _, body := b.ask(op, p, true, "", name)
			return status, body, b.b.Calls()[before:]
		}, names...)
	}
}

// certificates asks with certificates of clients, over TCP and at the host's own socket.
func certificates(t *testing.T, op operation) {
	for _, c := range []struct {
		uri    string // "": a certificate that names nobody
		verbs  string
		tenant bool
	}{{"", auth.All.String(), false}, {"glide://host/0a1b", "peer", false}, {"glide://tenant/acme", "read,use,manage", true}, {"glide://tenant/acme/volume/web", "read,use,manage", true}} {
		var uris []string
		if c.uri != "" {
			uris = []string{c.uri}
		}
		// Whatever token is shown, the certificate decides.
		for _, token := range []string{"", "common", "wrong"} {
			b := newBed(t)
			b.tls = certificate(t, uris...)
			status, kind, body := b.ask(op, nil, false, token, "acme/web")
			if c.tenant && (slices.Contains(ofHost, op.path) || op.path == "/v1/forks" || strings.HasSuffix(op.path, "/rename") || op.path == "/v1/volumes" && op.method == http.MethodPost) {
				continue // checked for tokens and bound sockets
			}
			if status == http.StatusUnauthorized || (kind == "denied") == (op.open || op.Verb == "" || may(c.verbs, op.Verb)) {
				t.Errorf("a certificate of %q, token %q: %d %s", c.uri, token, status, body)
			}
			if c.tenant {
				tellsNothing(t, op, body)
			}
		}
		if !c.tenant || !may(c.verbs, op.Verb) {
			continue
		}
		foreign(t, op, func(name string) (int, string, []string) {
			b := newBed(t)
			b.tls = certificate(t, uris...)
			before := len(b.b.Calls())
			status, _, body := b.ask(op, nil, false, "", name)
			return status, body, b.b.Calls()[before:]
		}, "other/web", "other/none", "default/plain")
	}
	if op.open {
		return
	}
	for _, uris := range [][]string{{"glide://tenant/acme", "glide://host/0a1b"}, {"glide://host/"}, {"glide://admin/x"}} {
		b := newBed(t)
		b.tls = certificate(t, uris...)
		if status, _, body := b.ask(op, nil, true, "common", "acme/web"); status != http.StatusForbidden {
			t.Errorf("a certificate of %q: %d %s", uris, status, body)
		}
	}
	// A bound socket wins over a certificate; one that was not verified says nothing.
	b := newBed(t)
	b.tls = certificate(t)
	if status, kind, body := b.ask(op, &auth.Principal{Who: "nobody", Tenant: "acme"}, true, "", "web"); (kind == "denied") == (op.Verb == "") {
		t.Errorf("a socket that is bound: %d %s", status, body)
	}
	b = newBed(t)
	b.tls = certificate(t)
	b.tls.PeerCertificates[0].NotAfter = time.Now().Add(-time.Second)
	if status, _, body := b.ask(op, nil, true, "common", "acme/web"); status != http.StatusUnauthorized || !strings.Contains(body, "expired") {
		t.Errorf("a certificate that has expired since the connection began: %d %s", status, body)
	}
	b.tls = certificate(t)
	b.tls.VerifiedChains = nil
	if status, _, body := b.ask(op, nil, false, "", "acme/web"); status != http.StatusUnauthorized {
		t.Errorf("a certificate that was not verified: %d %s", status, body)
	}
}
