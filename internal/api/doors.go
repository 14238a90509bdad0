package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
)

// Token is a token as its list shows it.
type Token struct {
	ID        string     `json:"id"`
	Tenant    string     `json:"tenant"` // "*": all
	Verbs     []string   `json:"verbs"`
	Volumes   []string   `json:"volumes"`              // patterns of names; empty: all
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // left out: never
}

// NewToken is a token that was just made.
type NewToken struct {
	Token
	Secret string `json:"token"` // shown this once
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Tenant  string   `json:"tenant"` // "*": all
	Verbs   []string `json:"verbs"`
	Volumes []string `json:"volumes,omitempty"` // patterns of names; none: all
	Expires string   `json:"expires,omitempty"` // how long it lasts, such as 24h or 30d; "": for ever
}

// TokenKeeper is a Backend that has tokens.
type TokenKeeper interface {
	NewToken(ctx context.Context, r TokenRequest) (NewToken, error)
	Tokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, id string) error
}

// with is handle for what a Backend need not have, K.
func with[K, In, Out any](method, path string, do func(ctx context.Context, k K, p params, in In) (Out, error)) route {
	return handle(method, path, func(ctx context.Context, b Backend, p params, in In) (out Out, err error) {
		k, ok := b.(K)
		if !ok {
			return out, errs.New(errs.Unsupported, "this daemon has nothing of that kind")
		}
		return do(ctx, k, p, in)
	})
}

var tokenRoutes = []route{
	with(http.MethodPost, "/v1/tokens", func(ctx context.Context, k TokenKeeper, _ params, in TokenRequest) (NewToken, error) {
		return k.NewToken(ctx, in)
	}),
	with(http.MethodGet, "/v1/tokens", func(ctx context.Context, k TokenKeeper, _ params, _ None) ([]Token, error) {
		list, err := k.Tokens(ctx)
		return notNull(list), err
	}),
	with(http.MethodDelete, "/v1/tokens/{id}", func(ctx context.Context, k TokenKeeper, p params, _ None) (None, error) {
		return None{}, k.RevokeToken(ctx, p.r.PathValue("id"))
	}),
}

// needs is the verb that each route takes: method and path. Of two, either will do. A
// route without one cannot be served.
var needs = map[auth.Verbs][]string{
	0: {"GET /v1/openapi.json", "GET /healthz"},
	auth.Read: {
		"GET /v1/volumes", "GET /v1/volumes/{name}", "GET /v1/volumes/{name}/snapshots", "GET /v1/removed",
		"GET /v1/volumes/{name}/log", "GET /v1/diff", "GET /v1/cost", "GET /v1/volumes/{name}/cost", "GET /v1/usage", "GET /v1/volumes/{name}/usage",
		"GET /v1/volumes/{name}/uri", "GET /v1/stats", "GET /v1/volumes/{name}/stats", "POST /v1/volumes/{name}/verify", "GET /v1/events",
	},
	auth.Read | auth.Peer: {"GET /v1/host"},
	auth.UseReadOnly:      {"GET /v1/volumes/{name}/image"},
	auth.Use:              {"POST /v1/volumes/{name}/barrier", "POST /v1/volumes/{name}/flush"},
	auth.Manage: {
		"POST /v1/volumes", "PATCH /v1/volumes/{name}", "DELETE /v1/volumes/{name}", "POST /v1/volumes/{name}/rename", "POST /v1/volumes/{name}/resize",
		"PUT /v1/volumes/{name}/image", "POST /v1/forks", "POST /v1/volumes/{name}/snapshots", "POST /v1/volumes/{name}/rollback", "POST /v1/volumes/{name}/restore",
		"POST /v1/volumes/{name}/sleep", "POST /v1/volumes/{name}/wake", "POST /v1/volumes/{name}/hydrate",
	},
	auth.Metrics: {"GET /metrics"},
	auth.Peer:    {"POST /v1/volumes/{name}/release", "POST /v1/blocks"},
	auth.Admin: {
		"POST /v1/gc", "GET /v1/gc/plan", "GET /v1/gc/status", "POST /v1/gc/undelete", "POST /v1/scrub", "GET /v1/doctor", "GET /v1/hosts",
		"POST /v1/hosts/{name}/forget", "GET /v1/objects/{key...}", "POST /v1/volumes/{name}/attach", "POST /v1/detach",
		"POST /v1/tokens", "GET /v1/tokens", "DELETE /v1/tokens/{id}",
		"POST /v1/tenants", "GET /v1/tenants", "GET /v1/tenants/{name}", "DELETE /v1/tenants/{name}", "GET /v1/tenants/{name}/check", "POST /v1/tenants/{name}/rewrap", "POST /v1/tenants/{name}/rotate", "POST /v1/tenants/{name}/rekey", "POST /v1/tenants/{name}/seal",
	},
}

// verbOf is the verb that a route takes; ok is false for a route without a rule.
func verbOf(rt *route) (verb auth.Verbs, ok bool) {
	for v, list := range needs {
		for _, x := range list {
			if x == rt.method+" "+rt.path {
				return v, true
			}
		}
	}
	return 0, false
}

// admit returns the server as the one who asks may see it. Another verb than his own is
// refused before anything is looked up, so it tells nothing.
func (s *server) admit(r *http.Request, verb auth.Verbs, o *Options) (*server, *http.Request, int, error) {
	p, status, err := o.Authenticate(r)
	if err != nil {
		return s, r, status, err
	}
	r = r.WithContext(auth.With(r.Context(), p))
	if !p.MayAny(verb) {
		return s, r, 0, errs.New(errs.Denied, "this needs the verb %s, and %s has %s", strings.ReplaceAll(verb.String(), ",", " or "), p.Who, p.Verbs)
	}
	mine := *s
	if o.Scope != nil {
		mine.Backend = o.Scope(p)
	}
	return &mine, r, 0, nil
}

// watched is a request that ends when its principal may not make it any more.
func watched(w http.ResponseWriter, r *http.Request, verb auth.Verbs, o *Options) (*http.Request, func()) {
	p := auth.From(r.Context())
	ctx, cancel := context.WithCancelCause(r.Context())
	var mu sync.Mutex
	over := false // the connection is another request's by then
	done := o.Watch(p, func(now *auth.Principal) bool {
		return now.MayAny(verb) && now.Tenant == p.Tenant && slices.Equal(now.Volumes, p.Volumes)
	}, func(why error) {
		mu.Lock()
		defer mu.Unlock()
		cancel(why)
		if !over && r.Body != nil && r.Body != http.NoBody { // an image may still come
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}
	})
	return r.WithContext(ctx), func() {
		done()
		mu.Lock()
		defer mu.Unlock()
		over = true
		cancel(nil)
	}
}

// ended is why a request was ended by the daemon, such as its own end; nil: it was not.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}
