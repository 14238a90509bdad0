package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api/internal/stall"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/nearest"
)

// Options are the settings of a Handler. The zero value has the defaults.
type Options struct {
	// Authenticate, if set, says who makes a request, or why that is not accepted and
	// the status of that answer. Nobody is asked who he is for /healthz.
	Authenticate func(r *http.Request) (*auth.Principal, int, error)
	// Audit, if set, is told of every request, its principal (nil: it was refused) and the
	// verb that it takes, when it is over.
	Audit func(r *http.Request, p *auth.Principal, verb auth.Verbs, err error)
	// Scope, if set, is the backend as a principal may see it.
	Scope func(p *auth.Principal) Backend
	// Watch, if set, calls end when p may not go on with a request, because may does not
	// hold for what its credential is worth by then, or it is worth nothing. done ends that.
	Watch func(p *auth.Principal, may func(now *auth.Principal) bool, end func(why error)) (done func())
	// StallTimeout is how long a request or its answer may make no progress because
	// of the client: 60 s by default, and 10 min for one on the same machine.
	StallTimeout time.Duration
	// Metrics answers requests for /metrics. None by default.
	Metrics http.Handler
	// Panicked, if set, is called after a panic in a request that may have changed the
	// volume of that name ("": none), and returns the answer.
	Panicked func(volume, doing string, value any) error
	// Log gets internal errors. None by default.
	Log *slog.Logger
}

// server answers requests from a backend.
type server struct {
	Backend
	panicked func(volume, doing string, value any) error
	log      *slog.Logger
	metrics  http.Handler
}

// route describes one method on one path.
type route struct {
	method, path string
	query        []string // parameters that it takes
	status       int      // of success
	in, out      reflect.Type
	open         bool // for anyone
	serve        func(s *server, w http.ResponseWriter, r *http.Request) error
}

// routes lists every route; the OpenAPI document is checked against it.
func routes() []route {
	return slices.Concat(volumeRoutes, imageRoutes, forkRoutes, snapshotRoutes, lifeRoutes, attachRoutes, inspectRoutes, blockRoutes, gcRoutes, scrubRoutes, tokenRoutes, tenantRoutes, hostRoutes)
}

// handle is a route that decodes an In, unless that is None, and answers with
// the Out in JSON.
func handle[In, Out any](method, path string, fn func(ctx context.Context, b Backend, p params, in In) (Out, error), query ...string) route {
	var in In
	var out Out
	status := http.StatusOK
	if reflect.TypeOf(out) == reflect.TypeFor[None]() {
		status = http.StatusNoContent
	}
	return route{
		method: method, path: path, query: query, status: status,
		in: reflect.TypeOf(in), out: reflect.TypeOf(out),
		serve: func(s *server, w http.ResponseWriter, r *http.Request) error {
			var in In
			if err := decode(w, r, &in); err != nil {
				return err
			}
			ctx, done := told(w, r)
			out, err := fn(ctx, s.Backend, params{r}, in)
			done()
			if err != nil {
				return err
			}
			return encode(w, status, out)
		},
	}
}

// params are the parameters in a request's URL.
type params struct{ r *http.Request }

func (p params) name() string { return p.r.PathValue("name") }

func (p params) query(key string) string { return p.r.URL.Query().Get(key) }

func (p params) flag(key string) (bool, error) {
	switch v := p.query(key); v {
	case "", "false", "0":
		return false, nil
	case "true", "1":
		return true, nil
	default:
		return false, errs.New(errs.Invalid, "%s=%.60s is neither true nor false", key, v)
	}
}

// Handler serves b. It may be called more than once for one backend, with
// different options for different listeners.
func Handler(b Backend, o Options) http.Handler {
	s := &server{Backend: b, log: o.Log, panicked: o.Panicked}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics = o.Metrics; s.metrics == nil {
		s.metrics = http.NotFoundHandler()
	}
	mux := http.NewServeMux()
	for _, rt := range routes() {
		verb, ok := verbOf(&rt)
		if !ok {
			panic("no verb is named for " + rt.method + " " + rt.path)
		}
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			s, status := s, 0
			var err error
			if !rt.open && o.Authenticate != nil {
				s, r, status, err = s.admit(r, verb, &o)
				if err == nil && o.Watch != nil {
					var done func()
					r, done = watched(w, r, verb, &o)
					defer done()
				}
				if o.Audit != nil {
					defer func() { o.Audit(r, auth.From(r.Context()), verb, err) }()
				}
			}
			if status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			if err == nil {
				err = rt.checkQuery(r.URL)
			}
			if err == nil {
				err = rt.serve(s, w, r)
			}
			if err != nil {
				s.fail(w, r, status, err)
			}
		})
	}
	// A web page in the user's browser must not reach a daemon on the user's machine.
	origin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w, r, done := stall.Limit(w, r, o.StallTimeout)
		defer done()
		defer s.recover(w, r)
		r = withTenant(r)
		if err := origin.Check(r); err != nil {
			s.fail(w, r, http.StatusForbidden, errs.New(errs.Invalid, "the API does not serve web pages: %w", err))
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			s.noRoute(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (rt *route) checkQuery(u *url.URL) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errs.New(errs.Invalid, "the query: %w", err)
	}
	for key, values := range query {
		if !slices.Contains(rt.query, key) {
			return errs.New(errs.Invalid, "the parameter %.60q is not known here%s", key, nearest.Hint(key, rt.query))
		}
		if len(values) > 1 {
			return errs.New(errs.Invalid, "the parameter %s is given %d times", key, len(values))
		}
	}
	return nil
}

// withTenant accepts a plain slash between tenant and name instead of %2F, unless the
// path then names one of the volume's own resources.
func withTenant(r *http.Request) *http.Request {
	const prefix = "/v1/volumes/"
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), prefix)
	part := strings.Split(rest, "/")
	known := volumeResources()
	if !ok || len(part) != 2 && len(part) != 3 || len(part) == 2 && known[part[1]] || len(part) == 3 && !known[part[2]] {
		return r
	}
	raw := prefix + part[0] + "%2F" + strings.Join(part[1:], "/")
	path, err := url.PathUnescape(raw)
	if err != nil {
		return r
	}
	u := *r.URL
	u.Path, u.RawPath = path, raw
	r2 := *r
	r2.URL = &u
	return &r2
}

// volumeNamed is the name of the volume in a request, "" if it names none.
func volumeNamed(u *url.URL) string {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/v1/volumes/")
	if !ok {
		return ""
	}
	part, _, _ := strings.Cut(rest, "/")
	name, err := url.PathUnescape(part)
	if err != nil {
		return ""
	}
	return name
}

// volumeResources lists the last path parts of a volume's resources.
var volumeResources = sync.OnceValue(func() map[string]bool {
	set := map[string]bool{}
	for _, rt := range routes() {
		if name, ok := strings.CutPrefix(rt.path, "/v1/volumes/{name}/"); ok {
			set[name] = true
		}
	}
	return set
})

// noRoute answers requests without a route.
func (s *server) noRoute(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	var allow []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := *r
		other.Method = m
		if _, pattern := mux.Handler(&other); pattern != "" {
			allow = append(allow, m)
		}
	}
	if len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		s.fail(w, r, http.StatusMethodNotAllowed, errs.New(errs.Invalid, "%s %.200s: only %s", r.Method, r.URL.Path, strings.Join(allow, ", ")))
		return
	}
	s.fail(w, r, http.StatusNotFound, errs.New(errs.NotFound, "%.200q is not part of the API: see /v1/openapi.json", r.URL.Path))
}

// fail answers with an error. Status 0 means the status of its kind.
func (s *server) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // the answer has begun: cut it off
	}
	err = cmp.Or(ended(r.Context()), err)
	if p, ok := errors.AsType[*errs.Panic](err); ok {
		s.log.Error("panic in a request", "request", r.Method+" "+r.URL.Path, "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
	}
	if status == 0 {
		status = errs.KindOf(err).HTTPStatus()
	}
	if status == http.StatusInternalServerError && r.Context().Err() == nil {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if err := encode(w, status, errorOf(err)); err != nil {
		s.log.Debug("the answer was not taken", "path", r.URL.Path, "error", err)
	}
}

// recover turns a panic into an error that is logged and answered.
func (s *server) recover(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	doing := r.Method + " " + r.URL.Path
	if s.panicked == nil {
		s.log.Error("panic in a request", "request", doing, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		s.fail(w, r, http.StatusInternalServerError, errs.New(errs.Internal, "the daemon hit a bug; its log has the details"))
		return
	}
	name := ""
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		name = volumeNamed(r.URL)
	}
	s.fail(w, r, http.StatusInternalServerError, s.panicked(name, doing, v))
}
