package e2e

import (
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore/s3test"
)

// TestIsolated: on a real S3 server, a volume with keys of its own beside one of its tenant,
// with the same content: a host that is killed, another host, a token of the tenant, a rotation
// with another secret for ids, and the erasure of the one and not of the other.
func TestIsolated(t *testing.T) {
	bucket, _ := s3test.Start(t)
	key, _ := keyFile(t)
	tcp := openPort(t)
	one, two := newDaemon(t, bucket, "--key", key), newDaemon(t, bucket, "--key", key, "--api", tcp)
	one.start()
	two.start()
	refused(t, one.try("create", "acme/web", "--size", "64M", "--isolate"), 2, "glide tenant create")
	one.do("tenant", "create", "acme", "--key", key, "--one-key", "--hide-names")
	one.do("create", "acme/web", "--size", "64M", "--isolate")
	one.do("create", "acme/db", "--size", "64M", "--durability", "sync")
	refused(t, one.try("create", "acme/web", "--size", "64M", "--isolate"), 1, "already")
	refused(t, one.try("fork", "acme/web", "acme/x", "--isolate"), 2, "glide create --isolate")
	data := pattern(8<<20, 7)
	one.write("acme/web", data, 0)
	one.write("acme/db", data, 0)
	one.do("flush", "acme/web")
	one.do("flush", "acme/db")
	var web, db api.Volume
	one.json(&web, "show", "acme/web")
	one.json(&db, "show", "acme/db")
	domain := web.Isolated
	if !strings.HasPrefix(domain, "acme+") || db.Isolated != "" {
		t.Fatalf("%+v, %+v", web, db)
	}
	if out := one.do("show", "acme/web"); !strings.Contains(out, domain) {
		t.Errorf("show says %s", out)
	}
	one.do("snapshot", "acme/web", "s")
	one.do("flush", "acme/web")
	one.kill()
	one.start()
	one.holds("acme/web", data, 0)
	var token struct{ Token string }
	two.json(&token, "token", "new", "--tenant", "acme", "--verbs", "read,use,manage")
	if r := as(t, tcp, token.Token, "fork", "web@s", "far"); r.Code != 0 {
		t.Fatalf("with a token of acme: %+v", r)
	}
	if r := as(t, tcp, token.Token, "create", "own", "--size", "64M", "--isolate"); r.Code != 0 {
		t.Fatalf("with a token of acme: %+v", r)
	}
	two.holds("acme/far", data, 0)
	one.do("sleep", "acme/web", "--portable")
	two.do("wake", "acme/web")
	two.do("tenant", "rotate", domain, "--conv")
	two.write("acme/web", data[:1<<20], 16<<20)
	two.do("flush", "acme/web")
	two.do("verify", "acme/web", "--cold")
	two.do("tenant", "rekey", domain)
	if out := two.do("tenant", "show", "acme"); !strings.Contains(out, domain) {
		t.Errorf("tenant show says %s", out)
	}
	refused(t, one.try("tenant", "erase", domain), 3, "--confirm")
	two.do("tenant", "erase", domain, "--confirm", domain)
	refused(t, newHost(t, bucket, key).try("wake", "acme/web", "--force"), 1, "erased")
	one.holds("acme/db", data, 0)
	for range 2 {
		one.do("gc", "--grace", "0s", "--store", bucket, "--key", key)
	}
	three := newHost(t, bucket, key)
	three.do("fork", "acme/db", "acme/copy", "--lazy")
	three.holds("acme/copy", data, 0)
	three.do("verify", "acme/copy", "--cold")
}

func newHost(t *testing.T, bucket, key string) *daemon {
	t.Helper()
	d := newDaemon(t, bucket, "--key", key)
	d.start()
	return d
}
