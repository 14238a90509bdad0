package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/programs"
)

// wrongStores are ways to get a store wrong that it answers to.
func wrongStores(url string) []wrongStore {
	return []wrongStore{
		{"wrong secret", url, []string{"AWS_SECRET_ACCESS_KEY=wrong"}, "the secret key does not belong to the access key"},
		{"unknown key", url, []string{"AWS_ACCESS_KEY_ID=nobody"}, "does not know the access key"},
		{"no credentials", url, []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, "set AWS_ACCESS_KEY_ID"},
		{"no bucket", strings.Replace(url, "glide-test", "no-such-bucket", 1), nil, "create the bucket"},
	}
}

type wrongStore struct {
	name, url string
	env       []string
	says      string
}

// TestWrongStore has wrong credentials and a wrong bucket of the real S3 server:
// one clear line and exit 1 at once, and a daemon that serves its local volumes
// all the same.
func TestWrongStore(t *testing.T) {
	url, _ := s3test.Start(t)
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, pattern(1<<20, 1), 0o600))
	var wg sync.WaitGroup
	for _, w := range wrongStores(url) {
		wg.Go(func() {
			w.importToStore(t, image, 10*time.Second)
		})
		wg.Go(func() {
			d := w.serve(t, [][]string{{"flush", "v"}, {"import", image, "i"}, {"fork", "elsewhere", "g"}, {"ls", "--all"}}, 10*time.Second)
			if r := d.try("doctor"); r.Code != 1 || !strings.Contains(r.Out+r.Err, w.says) {
				t.Errorf("%s: doctor: exit %d\n%s%s", w.name, r.Code, r.Out, r.Err)
			}
		})
	}
	wg.Wait()
}

// TestNoServer has a wrong address: requests are tried again for up to half a
// minute, in case the server is just being started, and then it is the same.
func TestNoServer(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, pattern(1<<20, 1), 0o600))
	w := wrongStore{
		"no server", "s3://glide-test?endpoint=http://127.0.0.1:1",
		[]string{"AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s"}, "nobody listens at s3://glide-test",
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.importToStore(t, image, 35*time.Second) })
	wg.Go(func() { w.serve(t, [][]string{{"ls", "--all"}}, 35*time.Second) })
	wg.Wait()
}

func (w *wrongStore) importToStore(t *testing.T, image string, limit time.Duration) {
	began := time.Now()
	cmd := exec.Command(programs.Glide(t), "import", image, "v", "--store", w.url)
	cmd.Env = append(os.Environ(), w.env...)
	w.refused(t, "import --store", finish(t, cmd), began, limit)
}

// refused wants one line that says what is wrong, without the secret, in time.
func (w *wrongStore) refused(t *testing.T, verb string, r result, began time.Time, limit time.Duration) {
	t.Helper()
	refused(t, r, 1, w.says)
	if strings.Contains(r.Err, "testsecret") {
		t.Errorf("%s: the message has the secret: %s", w.name, r.Err)
	}
	if took := time.Since(began); took > limit {
		t.Errorf("%s: %s took %v to fail", w.name, verb, took)
	}
}

// serve runs a daemon with the wrong store, and verbs that need it. (No Fatal:
// it runs beside the test.)
func (w *wrongStore) serve(t *testing.T, verbs [][]string, limit time.Duration) *daemon {
	d := newDaemon(t, w.url)
	d.env = w.env
	if err := d.tryStart(); err != nil {
		t.Errorf("%s: %v", w.name, err)
		return d
	}
	for _, verb := range [][]string{{"create", "v", "--size", "64M"}, {"fork", "v", "f"}, {"snapshot", "v", "s"}} {
		if r := d.try(verb...); r.Code != 0 {
			t.Errorf("%s: glide %s: exit %d: %s", w.name, verb[0], r.Code, r.Err)
		}
	}
	for _, verb := range verbs {
		began := time.Now()
		w.refused(t, verb[0], d.try(verb...), began, limit)
	}
	if !strings.Contains(d.log.String(), "cannot be used yet") {
		t.Errorf("%s: the daemon did not say that its store is wrong:\n%s", w.name, d.log.String())
	}
	return d
}
