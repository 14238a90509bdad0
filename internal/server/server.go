package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/audit"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/doctor"
	"github.com/paraglide/glide/internal/doors"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/limits"
	"github.com/paraglide/glide/internal/listener"
	"github.com/paraglide/glide/internal/localkey"
	"github.com/paraglide/glide/internal/metrics"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/nbd"
)

const (
	// grace is how long requests may take to finish when the daemon stops.
	grace = 20 * time.Second
	// closeTime bounds the host's own work at the end. The log is synced first,
	// so no data depends on it.
	closeTime = 30 * time.Second
)

// gcPercent is how much garbage may gather before a collection, as a percentage
// of the live heap: half of Go's default. The heap is mostly caches, which hold no
// pointers and make a collection cheap, and requests leave hardly any garbage. So
// the process stays nearer to --memory. GOGC overrides it.
const gcPercent = 50

// maxThreads is how many threads the runtime may have before it ends the process:
// Go's default of 10,000, and more for connections and disk reads that may block.
const maxThreads = 20_000

// moreThreads is how many more threads may run than there are processors. The runtime
// takes a thread from long work after 10 ms at the earliest. The kernel lets a thread
// that has slept go first, if there is a thread left for the guest's request.
// GOMAXPROCS overrides it.
const moreThreads = 6

// Options are what the daemon gets from its program.
type Options struct {
	// Version is the program's.
	Version string
	// Load reads the settings again.
	Load func() (*config.Config, error)
	// Out gets one line when the daemon serves, and nothing else.
	Out io.Writer
	// Log gets the log.
	Log io.Writer
}

// Run runs the daemon with the settings c until ctx ends, or until it cannot serve.
// The process is the daemon's from then on: Run changes its limits and its signals,
// and leaves them changed.
func Run(ctx context.Context, c *config.Config, o Options) error {
	debug.SetTraceback("crash") // a bug ends the process by a signal; exit status 2 would mean a wrong command line
	level := &slog.LevelVar{}
	level.Set(c.LogLevel)
	log := newLogger(o.Log, c.LogFormat, level)
	raiseLimits(log)
	debug.SetMaxThreads(maxThreads)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + moreThreads)
	}
	lv, err := newLive(c, o.Load, level, log)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return datadir.Unusable(c.Data, err)
	}
	var written *audit.Log
	if c.Audit != "" {
		if written, err = audit.Open(c.Audit, time.Now, log); err != nil {
			return err
		}
		defer func() { _ = written.Close() }()
	}
	ls, err := openListeners(c)
	if err != nil {
		return err
	}
	defer ls.close()
	sup := &supervisor{log: log}
	at, started := sup.starting()
	defer started()
	at("connecting to the store")
	var opened atomic.Pointer[objstore.Store]
	outliveSignals(ctx, log, func() {
		defer sup.reloading()()
		lv.reread(ctx, opened.Load())
	})
	counter, ledger := &objstore.Counter{}, cost.NewLedger(time.Now())
	store, err := openStore(ctx, c, counter, ledger, log)
	if err != nil {
		return err
	}
	opened.Store(&store)
	var conns atomic.Pointer[connMetrics]
	cfg := host.Config{
		Limits: func() []limits.Use {
			if c := conns.Load(); c != nil {
				return append(limits.Read(), c.uses()...)
			}
			return limits.Read()
		},
		Data: c.Data, Store: store, StoreURL: c.Store, Counter: counter, Ledger: ledger, Prices: c.Prices, Version: o.Version,
		Advertise: c.Advertise, NBD: texts(unbound(ls.nbd.addrs)), API: texts(unbound(ls.api.addrs)), NBDTLS: c.TLS == "require",
		Memory: c.Memory, Cache: c.Cache, WALLimit: c.WALLimit, DirtyBudget: c.DirtyBudget,
		Compression: c.Compression, PackBlocks: c.PackBlocks, NoPrefetch: !c.Prefetch, Peers: c.Peers, Retention: c.Retention, CollectGrace: c.GCGrace, ScrubDisk: c.ScrubDisk, ScrubStore: c.ScrubStore, Keys: c.Keys, SealedOnly: c.SealedOnly, KeyTTL: c.KeyTTL, OnRevoke: c.OnRevoke, Log: log,
		Dial: peers{c.PeersAllow, lv.Token, lv.certs.Load}.dial, Starting: at,
	}
	cfg.Local = func(ctx context.Context, host string) (*seal.Local, error) {
		return localkey.Open(ctx, c.Data, c.LocalKey, host)
	}
	if c.GC {
		cfg.CollectEvery = c.GCInterval
	}
	if all := unbound(ls.api.addrs); cfg.Advertise == "" && len(all) > 0 {
		if cfg.Advertise = cfg.API[0]; all[0].Any() {
			log.Warn("other hosts cannot reach this one at its API's address: set --advertise", "api", cfg.Advertise)
		}
	}
	h, err := host.Open(ctx, cfg)
	if err != nil {
		return err
	}
	started()
	if set := lv.certs.Load(); set.Mutual() && strings.HasPrefix(cfg.Advertise, "tcp:") && !set.Is(h.ID()) {
		log.Warn("other hosts will not believe that this is the host that it says: issue its certificate with the URI", "certificate", c.TLSCert, "uri", auth.HostURI(h.ID()))
	}
	err = ls.openSockets() // only now: no other daemon uses the directory
	if err == nil {
		mode, tlsConfig := lv.nbdTLS()
		r := &running{
			live: lv, log: log, out: o.Out, sup: sup, data: c.Data, doors: doors.New(lv.tokens, lv.Token, lv.users, lv.roots, time.Now, written),
			nbd: &nbd.Server{Exporter: h.Exports(), Options: nbd.Options{TLS: mode, TLSConfig: tlsConfig, Logger: log}},
		}
		r.conns = &connMetrics{nbd: r.nbd, api: &r.guards}
		conns.Store(r.conns)
		err = r.run(ctx, h, ls, cfg)
	}
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	return errors.Join(err, h.Close(cctx))
}

// running holds the servers of a running daemon.
type running struct {
	live   *live
	log    *slog.Logger
	out    io.Writer // gets the ready line
	sup    *supervisor
	data   string
	nbd    *nbd.Server
	doors  *doors.Doors
	api    []*http.Server // one for each kind of address
	socks  sockets
	guards guards
	conns  *connMetrics
	stop   context.CancelCauseFunc // ends the requests of the API
}

// patient gives each request one retry budget for the store.
func patient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(objstore.WithRetryBudget(r.Context())))
	})
}

// waiting ends requests that only wait for events when ctx ends: a stop would
// wait for them too.
func waiting(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/events" {
			rctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			r = r.WithContext(rctx)
		}
		next.ServeHTTP(w, r)
	})
}

// run serves until ctx ends or a listener fails.
func (r *running) run(ctx context.Context, h *host.Host, ls *listeners, cfg host.Config) error {
	failed := make(chan error, len(ls.api.addrs)+len(ls.nbd.addrs))
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	r.stop = stop
	r.socks.log, r.socks.data, r.guards.log = r.log, r.data, r.log
	var wg sync.WaitGroup
	fail := func(err error) {
		select {
		case failed <- err:
		default: // the first failure is enough
		}
	}
	serveAPI := func(bound *auth.Principal, local bool) func(net.Listener) {
		s := r.apiServer(ctx, base, h, r.doors.API(bound, local))
		return func(l net.Listener) {
			defer wg.Done()
			if err := s.Serve(r.live.apiTLS(r.guards.around(l))); !errors.Is(err, http.ErrServerClosed) && !r.socks.replaced(l) {
				fail(fmt.Errorf("the API at %s: %w", l.Addr(), err))
			}
		}
	}
	serveNBD := func(bound *auth.Principal, local bool) func(net.Listener) {
		exports := r.doors.Exports(h.Exports(), bound, local)
		return func(l net.Listener) {
			defer wg.Done()
			if err := r.nbd.ServeExporter(base, l, exports); err != nil && !r.socks.replaced(l) {
				fail(fmt.Errorf("NBD at %s: %w", l.Addr(), err))
			}
		}
	}
	for _, x := range []struct {
		l     *listening
		serve func(bound *auth.Principal, local bool) func(net.Listener)
	}{{&ls.api, serveAPI}, {&ls.nbd, serveNBD}} {
		for _, l := range x.l.open {
			wg.Add(1)
			go x.serve(nil, l.Addr().Network() == "unix")(l)
		}
		for i, l := range x.l.own {
			r.socks.add(&wg, l, x.serve(boundTo(x.l.sockets[i]), true))
		}
	}
	go r.live.files.Run(ctx)
	go r.doors.Run(ctx)
	go r.socks.keep(ctx, &wg)
	r.log.Info("serving", "version", cfg.Version, "host", h.ID(), "data", cfg.Data, "store", cfg.StoreURL, "api", cfg.API, "nbd", cfg.NBD, "advertise", cfg.Advertise)
	if _, err := fmt.Fprintf(r.out, "glide: ready api=%s nbd=%s host=%s\n", strings.Join(texts(ls.api.addrs), ","), strings.Join(texts(ls.nbd.addrs), ","), h.ID()); err != nil {
		r.log.Warn("the ready line could not be written", "error", err)
	}
	stopping, over := r.sup.serving("serving at "+strings.Join(texts(ls.nbd.addrs), ", "), func(ctx context.Context) error { return r.alive(ctx, h, ls.api.addrs[0].String()) })
	defer over()

	var err error
	select {
	case <-ctx.Done():
		signal.Reset(os.Interrupt, syscall.SIGTERM) // before "stopping" is logged, so that the next signal ends the process at once
		r.log.Info("stopping")
	case err = <-failed:
		r.log.Error("stopping: a listener failed", "error", err)
	}
	stopping()
	h.LiftLimits() // a request that waits for a limit would hold up the stop
	r.shutdown()
	wg.Wait()
	return err
}

// apiServer returns a server of the API for addresses where authenticate says who asks.
func (r *running) apiServer(ctx, base context.Context, h *host.Host, authenticate func(*http.Request) (*auth.Principal, int, error)) *http.Server {
	all := checked{h, h.Custody(), r.live.first, h.ID()}
	s := &http.Server{
		Handler: listener.WithState(waiting(ctx, patient(api.Handler(all, api.Options{
			Log: r.log, Authenticate: authenticate, Audit: r.doors.Audit, Scope: r.doors.Scope(all), Watch: r.doors.Watch, Panicked: h.PanickedAt, Metrics: r.metrics(h),
		})))),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return doors.ConnContext(listener.ConnContext(ctx, nc), nc)
		},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	r.api = append(r.api, s)
	return s
}

// checked is a host whose doctor looks at the daemon's files, too.
type checked struct {
	api.Backend
	api.TenantKeeper
	c  *config.Config
	id string
}

// Doctor checks what the host depends on.
func (h checked) Doctor(ctx context.Context) ([]api.Check, error) {
	list, err := h.Backend.Doctor(ctx)
	return append(list, doctor.Files(h.c, h.id)...), err
}

// metrics serves the metrics of the host, and to who may see some volumes only, theirs.
func (r *running) metrics(h *host.Host) http.Handler {
	all, scope := metrics.Handler(h, r.conns), r.doors.Scope(h)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p := auth.From(req.Context())
		if p == nil || p.Unlimited() {
			all.ServeHTTP(w, req)
			return
		}
		metrics.Volumes(func(ctx context.Context) ([]api.Volume, error) { return scope(p).List(ctx, false) }).ServeHTTP(w, req)
	})
}

// alive is nil if the API answers and the volumes and the log respond. It
// does not return while they hang.
func (r *running) alive(ctx context.Context, h *host.Host, addr string) error {
	var o client.Options
	if r.live.first.TLS == "require" {
		o.TLS = certs.Self()
	}
	c, err := client.New(addr, o)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Health(ctx)
	return errors.Join(err, h.Alive(ctx))
}

// shutdown waits for requests to finish, up to grace, and then ends them.
func (r *running) shutdown() {
	r.socks.stop()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.nbd.Shutdown(ctx); err != nil {
			r.log.Warn("NBD requests did not finish in time", "error", err)
		}
	})
	for _, s := range r.api {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err == nil {
				return
			}
			r.stop(errs.New(errs.Unavailable, "the daemon is stopping: try again when it runs"))
			last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := s.Shutdown(last); err != nil {
				r.log.Warn("requests of the API did not finish in time", "error", s.Close())
			}
		})
	}
	wg.Wait()
	r.stop(context.Canceled)
}

func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// wantFiles is how many open files the daemon asks for: segments,
// slabs, and a socket for every connection.
const wantFiles = 1 << 20

// raiseLimits raises the limit of open files as far as the system allows. The Go
// runtime raises the soft limit to the hard one; root can raise the hard one too.
func raiseLimits(log *slog.Logger) {
	want := unix.Rlimit{Cur: wantFiles, Max: wantFiles}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return
	}
	if have.Cur < want.Cur && unix.Setrlimit(unix.RLIMIT_NOFILE, &want) != nil && have.Cur < have.Max {
		have.Cur = have.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &have) // if it fails, the limit stays as it is
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err == nil && have.Cur < 4096 {
		log.Warn("the limit of open files is low: raise it (LimitNOFILE=, ulimit -n)", "limit", have.Cur)
	}
}
