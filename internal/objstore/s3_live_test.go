package objstore_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/s3test"
)

// keyed is a server that takes one access key, and tells which it was given.
type keyed struct {
	mu   sync.Mutex
	want string
	last string
}

func (k *keyed) take(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want = key
}

func (k *keyed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	k.last, _, _ = strings.Cut(rest, "/")
	if k.last != k.want {
		refuse(w, http.StatusForbidden, "InvalidAccessKeyId")
	}
}

func writeCredentials(t *testing.T, path, key string) {
	t.Helper()
	text := fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=secret-%s\n", key, key)
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// fromFile has a store at a server, with credentials of a shared file.
func fromFile(t *testing.T, server http.Handler, opts objstore.Options) (s objstore.Store, file string) {
	t.Helper()
	fake(t, "", nil) // for its environment
	file = filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	writeCredentials(t, file, "old")
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`)
		server.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	opts.Retry = impatient
	return open(t, "s3://bucket?endpoint="+url.QueryEscape(h.URL), opts), file
}

// New keys in the shared file are used without a restart: at once when the store
// has refused the old ones, and else soon.
func TestCredentialsChange(t *testing.T) {
	server := &keyed{want: "old"}
	var told []error
	s, file := fromFile(t, server, objstore.Options{OnCredentials: func(err error) { told = append(told, err) }})
	put := func() error { return s.Put(t.Context(), "a", []byte("x")) }
	if err := put(); err != nil {
		t.Fatal(err)
	}
	server.take("new")
	if err := put(); !errors.Is(err, objstore.ErrPersistent) || !strings.Contains(err.Error(), "SharedConfig") {
		t.Errorf("with keys that the store does not know: %v", err)
	}
	time.Sleep(1100 * time.Millisecond)
	writeCredentials(t, file, "new")
	if err := put(); err != nil {
		t.Errorf("with new keys in the file: %v", err)
	}

	// A bad file keeps the old ones, and is told.
	for _, text := range []string{"[default]\naws_access_key_id=half\n", "[defau"} {
		time.Sleep(1100 * time.Millisecond)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		told = nil
		if err := put(); err != nil || server.last != "new" {
			t.Errorf("with a file of %q: %v, as %s", text, err, server.last)
		}
		if len(told) == 0 || told[0] == nil {
			t.Errorf("with a file of %q nothing was told: %v", text, told)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := objstore.Reload(t.Context(), s); err == nil {
		t.Error("Reload has no error without credentials")
	}
	if err := put(); err != nil {
		t.Errorf("without a file: %v", err)
	}
	writeCredentials(t, file, "third")
	server.take("third")
	if err := objstore.Reload(t.Context(), s); err != nil {
		t.Error(err)
	}
	if err := put(); err != nil {
		t.Errorf("after Reload: %v", err)
	}
}

// The request that was refused is sent again when there are others.
func TestRefusedRequestGoesAgain(t *testing.T) {
	server := &keyed{want: "old"}
	s, file := fromFile(t, server, objstore.Options{})
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	server.take("new")
	writeCredentials(t, file, "new") // within the second in which the file is not looked at
	if err := s.PutIfAbsent(t.Context(), "b", nil); err != nil {
		t.Error(err)
	}
}

// Temporary credentials are replaced before they end, and outlive a provider
// that fails for a while.
func TestCredentialsExpire(t *testing.T) {
	server := &keyed{want: "k1"}
	var calls atomic.Int32
	var down atomic.Bool
	left := atomic.Int64{}
	left.Store(int64(2 * time.Hour))
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintf(w, `{"AccessKeyId":"k%d","SecretAccessKey":"s","Token":"t","Expiration":"%s"}`,
			calls.Add(1), time.Now().Add(time.Duration(left.Load())).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(provider.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", provider.URL)
	s, file := fromFile(t, server, objstore.Options{})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, s.String(), objstore.Options{Retry: impatient})
	put := func() error { return s2.Put(t.Context(), "a", nil) }
	left.Store(int64(4 * time.Minute)) // less than what they are replaced before
	for range 2 {
		if err := put(); err != nil && calls.Load() < 2 {
			t.Fatal(err)
		}
		server.take(fmt.Sprint("k", calls.Load()+1))
	}
	if calls.Load() < 2 {
		t.Errorf("credentials with 4 minutes to go were asked for %d times", calls.Load())
	}
	down.Store(true)
	server.take(fmt.Sprint("k", calls.Load()))
	if err := put(); err != nil {
		t.Errorf("while the provider fails, with credentials that are good for minutes: %v", err)
	}
}

// What proxies may touch is not signed: the real server checks the signature.
func TestProxiesMayTouch(t *testing.T) {
	store, _ := s3test.Start(t)
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(u.Query().Get("endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("Accept-Encoding", "br;q=1")
		r.Out.Header.Set("User-Agent", "proxy")
		r.Out.Header.Set("Via", "1.1 proxy")
		r.Out.Header.Set("X-Forwarded-Proto", "http")
	}}
	p := httptest.NewServer(proxy)
	t.Cleanup(p.Close)
	q := u.Query()
	q.Set("endpoint", p.URL)
	u.RawQuery = q.Encode()
	s := open(t, u.String(), objstore.Options{Retry: impatient})
	if err := objstore.Probe(t.Context(), s, "p"); err != nil {
		t.Error(err)
	}
}

// Buckets that demand a checksum get one, and it is right.
func TestChecksums(t *testing.T) {
	for param, header := range map[string]string{"crc32c": "X-Amz-Checksum-Crc32c", "md5": "Content-Md5"} {
		var bad atomic.Pointer[string]
		s := fake(t, "&checksum="+param, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got := r.Header.Get(header)
			sum := md5.Sum(body)
			ok := got != "" && (param != "md5" || got == base64.StdEncoding.EncodeToString(sum[:]))
			if r.Method == http.MethodPost && param == "crc32c" {
				ok = r.Header.Get("X-Amz-Checksum-Crc32") != "" || got != ""
			}
			if !ok {
				text := fmt.Sprintf("%s %s: %v", r.Method, r.URL, r.Header)
				bad.Store(&text)
				refuse(w, http.StatusBadRequest, "InvalidRequest")
				return
			}
			if r.Method == http.MethodPost {
				_, _ = io.WriteString(w, "<DeleteResult></DeleteResult>")
			}
		})
		for _, err := range []error{s.Put(t.Context(), "a", []byte("data")), s.PutIfAbsent(t.Context(), "b", nil), s.DeleteBatch(t.Context(), []string{"a"})} {
			if err != nil {
				t.Errorf("%s: %v (%s)", param, err, *bad.Load())
			}
		}
	}
	store, _ := s3test.Start(t) // which checks what it gets
	for _, param := range []string{"crc32c", "md5"} {
		s := open(t, store+"&checksum="+param, objstore.Options{Retry: impatient})
		if err := objstore.Probe(t.Context(), s, "c"+param); err != nil {
			t.Errorf("%s: %v", param, err)
		}
	}
}

// A success that is none of S3's is not believed; an answer in chunks is.
func TestAnswersOfOthers(t *testing.T) {
	page := "<html><body>Please log in</body></html>"
	l := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, page)
	}))
	t.Cleanup(l.Close)
	fake(t, "", nil)
	s := open(t, "s3://bucket?endpoint="+url.QueryEscape(l.URL), objstore.Options{Retry: impatient})
	_, err1 := s.Get(t.Context(), "a")
	_, err2 := s.List(t.Context(), "", "", 0)
	_, err3 := s.Head(t.Context(), "a")
	for i, err := range []error{err1, err2, err3, s.Put(t.Context(), "a", nil), s.PutIfAbsent(t.Context(), "a", nil)} {
		if errs.KindOf(err) != errs.Unavailable || !strings.Contains(fmt.Sprint(err), "no S3 server") {
			t.Errorf("request %d is answered with a login page: %v", i, err)
		}
	}
	chunks := fake(t, "", func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			_, _ = io.WriteString(w, strings.Repeat("x", 1000))
			w.(http.Flusher).Flush()
		}
	})
	if b, err := chunks.Get(t.Context(), "a"); err != nil || len(b) != 10_000 {
		t.Errorf("in chunks: %d bytes, %v", len(b), err)
	}
	torn := fake(t, "", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 1000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	if _, err := torn.Get(t.Context(), "a"); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("in chunks, torn: %v", err)
	}
	if _, err := untilClosed(t).Get(t.Context(), "a"); errs.KindOf(err) != errs.Unsupported || !strings.Contains(err.Error(), "HTTP/1.1") {
		t.Errorf("without a length, until it is closed: %v", err)
	}
}

// untilClosed is a server whose answers end when it closes the connection.
func untilClosed(t *testing.T) objstore.Store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nETag: \"x\"\r\n\r\nhalf of it")
			_ = c.Close()
		}
	}()
	fake(t, "", nil)
	return open(t, "s3://bucket?endpoint=http://"+l.Addr().String(), objstore.Options{Retry: impatient})
}

// Messages say who refuses, and why.
func TestWhoRefuses(t *testing.T) {
	html := func(status int, server string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Del("ETag")
			w.Header().Set("Server", server)
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html><h1>no</h1></html>")
		}
	}
	coded := func(status int, code string, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("X-Amz-Request-Id", "1")
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			refuse(w, status, code)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		says   []string
	}{
		"a proxy that fails":     {html(502, "nginx/1.2"), []string{"a proxy on the way (nginx/1.2)"}},
		"a proxy that is busy":   {html(503, "haproxy"), []string{"a proxy on the way (haproxy)"}},
		"a proxy that forbids":   {html(403, "squid"), []string{"a proxy on the way (squid)"}},
		"a proxy that asks":      {html(407, ""), []string{"a proxy on the way"}},
		"a proxy with a limit":   {html(413, "nginx"), []string{"a proxy on the way (nginx)"}},
		"a clock that is behind": {coded(403, "RequestTimeTooSkewed", "Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat)), []string{"clock is", "behind"}},
		"a clock that is ahead":  {coded(403, "RequestTimeTooSkewed", "Date", time.Now().Add(-2*time.Hour).UTC().Format(http.TimeFormat)), []string{"clock is", "ahead"}},
		"a policy":               {coded(403, "AccessDenied"), []string{"policies", "s3:PutObject", "EnvConfigCredentials"}},
		"a token":                {coded(403, "ExpiredToken"), []string{"expired", "EnvConfigCredentials"}},
		"a region":               {coded(400, "AuthorizationHeaderMalformed", "X-Amz-Bucket-Region", "eu-north-1"), []string{"region=eu-north-1"}},
		"another region":         {coded(301, "PermanentRedirect", "X-Amz-Bucket-Region", "eu-north-1"), []string{"region=eu-north-1"}},
		"no word":                {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, []string{"does not say why"}},
		"a store that is busy":   {coded(503, "SlowDown"), []string{"slow down"}},
	} {
		s := fake(t, "", c.answer)
		err := s.Put(t.Context(), "a", nil)
		for _, want := range c.says {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s: %v, want it to say %q", name, err, want)
			}
		}
	}
	fake(t, "", nil)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	for endpoint, want := range map[string]string{
		strings.Replace(plain.URL, "http:", "https:", 1):  "answers without TLS",
		strings.Replace(secure.URL, "https:", "http:", 1): "",
		secure.URL:               "AWS_CA_BUNDLE",
		"http://127.0.0.1:1":     "nobody listens",
		"http://no-such.invalid": "no-such.invalid",
	} {
		s := open(t, "s3://bucket?endpoint="+url.QueryEscape(endpoint), objstore.Options{Retry: impatient})
		if err := s.Put(t.Context(), "a", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", endpoint, err, want)
		}
	}
}

// An endpoint of the environment needs no region, whichever variable names it.
func TestEndpointOfTheEnvironment(t *testing.T) {
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		t.Run(name+" is not the URL's", func(t *testing.T) {
			s := fake(t, "", func(http.ResponseWriter, *http.Request) {})
			t.Setenv(name, "http://127.0.0.1:1")
			if err := open(t, s.String(), objstore.Options{Retry: impatient}).Put(t.Context(), "a", nil); err != nil {
				t.Error(err)
			}
		})
		t.Run(name, func(t *testing.T) {
			fake(t, "", nil)
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", `"x"`) }))
			t.Cleanup(h.Close)
			t.Setenv(name, h.URL)
			s := open(t, "s3://bucket", objstore.Options{Retry: impatient})
			if err := s.Put(t.Context(), "a", nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// New authorities are trusted without a restart.
func TestAuthoritiesChange(t *testing.T) {
	h := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", `"x"`) }))
	t.Cleanup(h.Close)
	fake(t, "", nil)
	file := filepath.Join(t.TempDir(), "ca.pem")
	t.Setenv("AWS_CA_BUNDLE", file)
	trust := func(der []byte) {
		t.Helper()
		b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := errors.Join(os.WriteFile(file+".new", b, 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	stranger := selfSigned(t)
	trust(stranger)
	s := open(t, "s3://bucket?endpoint="+url.QueryEscape(h.URL), objstore.Options{Retry: impatient})
	if err := s.Put(t.Context(), "a", nil); !strings.Contains(fmt.Sprint(err), "not trusted") {
		t.Fatalf("with another authority: %v", err)
	}
	trust(h.Certificate().Raw)
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Errorf("with the right one: %v", err)
	}
	if err := os.WriteFile(file, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Errorf("with a bad file: %v", err)
	}
}

// selfSigned is a certificate that nobody has.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestLiveEncryptionDropped: a server that takes sse and encrypts nothing is refused before
// anything is stored in it.
func TestLiveEncryptionDropped(t *testing.T) {
	url, _ := s3test.Start(t)
	for _, sse := range []string{"&sse=AES256", "&sse=aws:kms&kms_key=k"} {
		s := open(t, url+sse, objstore.Options{Retry: impatient})
		if err := objstore.Probe(t.Context(), s, objstore.NewNonce()); !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "did not encrypt it") {
			t.Errorf("%s: %v", sse, err)
		}
	}
}
