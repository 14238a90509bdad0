package s3test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Honest is a real S3 server whose answers say of each write that what was asked for was
// done, as a store's that encrypts do. It records what is asked for, by method and key.
type Honest struct {
	mu    sync.Mutex
	asked map[string][3]string // mode, key, bucket key
}

// Encrypting starts one, and returns the URL of its store.
func Encrypting(tb testing.TB) (h *Honest, store string) {
	tb.Helper()
	store, _ = Start(tb)
	u, err := url.Parse(store)
	if err != nil {
		tb.Fatal(err)
	}
	query := u.Query()
	server, err := url.Parse(query.Get("endpoint"))
	if err != nil {
		tb.Fatal(err)
	}
	h = &Honest{asked: map[string][3]string{}}
	names := [3]string{"X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", "X-Amz-Server-Side-Encryption-Bucket-Key-Enabled"}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: func(r *http.Response) error {
			var asked [3]string
			for i, name := range names {
				if asked[i] = r.Request.Header.Get(name); asked[i] != "" && r.StatusCode < 300 {
					r.Header.Set(name, asked[i])
				}
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			_, key, _ := strings.Cut(strings.TrimPrefix(r.Request.URL.Path, "/"), "/")
			h.asked[r.Request.Method+" "+key] = asked
			return nil
		},
	}
	front := httptest.NewServer(proxy)
	tb.Cleanup(front.Close)
	query.Set("endpoint", front.URL)
	u.RawQuery = query.Encode()
	return h, u.String()
}

// Asked returns what was asked for: mode, key and bucket key, by method and key of the object.
func (h *Honest) Asked() map[string][3]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.asked)
}

// Forget forgets what was asked for.
func (h *Honest) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.asked)
}
