package e2e

import (
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// TestPublicImage: an image is imported and published for a public tenant; tenants fork it on
// another host, one of them with a token of its own, which opens nothing else; a new host
// reads the forks when the image is gone and garbage was collected.
func TestPublicImage(t *testing.T) {
	bucket := "file://" + t.TempDir()
	images, _ := keyFile(t)
	acme, _ := keyFile(t)
	beta, _ := keyFile(t)
	flags := []string{"--key", images, "--key", acme, "--key", beta}
	tcp := openPort(t)
	one, two := newDaemon(t, bucket, flags...), newDaemon(t, bucket, append(flags, "--api", tcp)...)
	one.start()
	two.start()
	one.do("tenant", "create", "public", "--public", "--key", images, "--one-key")
	one.do("tenant", "create", "acme", "--key", acme, "--one-key")
	one.do("tenant", "create", "beta", "--key", beta, "--one-key")
	image := pattern(24<<20, 5)
	one.do("create", "public/debian", "--size", "64M")
	one.write("public/debian", image, 0)
	refused(t, one.try("publish", "public/debian"), 2, "glide snapshot")
	refused(t, one.try("publish", "public/debian@12"), 1, "glide snapshot public/debian 12")
	one.do("snapshot", "public/debian", "12")
	refused(t, two.try("fork", "public/debian@12", "acme/web"), 1, "public/debian")
	if out := one.do("publish", "public/debian@12"); !strings.Contains(out, "can fork public/debian@12") {
		t.Errorf("publish says %q", out)
	}
	one.do("create", "acme/own", "--size", "1M")
	one.do("snapshot", "acme/own", "s")
	refused(t, one.try("publish", "acme/own@s"), 2, "not public")
	one.do("flush", "acme/own")

	var token struct{ Token string }
	two.json(&token, "token", "new", "--tenant", "acme", "--verbs", "read,use,manage")
	if r := as(t, tcp, token.Token, "fork", "public/debian@12", "web"); r.Code != 0 {
		t.Fatalf("with a token of acme: %+v", r)
	}
	refused(t, as(t, tcp, token.Token, "fork", "public/debian", "x"), 1, "no volume")
	refused(t, as(t, tcp, token.Token, "show", "public/debian"), 1, "no volume")
	refused(t, as(t, tcp, token.Token, "fork", "beta/vm@s", "x"), 2, "not public")
	refused(t, as(t, tcp, token.Token, "fork", "public/debian@12", "beta/x"), 1, "")
	two.do("fork", "public/debian@12", "beta/vm")
	var v api.Volume
	two.json(&v, "show", "acme/web")
	if v.Parent != "public/debian" || !v.Encrypted {
		t.Errorf("%+v", v)
	}
	two.holds("acme/web", image, 0)
	own := pattern(1<<20, 6)
	two.write("acme/web", own, 0)
	two.write("beta/vm", own, 0)
	two.do("flush", "acme/web")
	two.do("flush", "beta/vm")

	// A host that can open only acme reads its fork, and makes none of the image.
	four := newDaemon(t, bucket, "--key", acme)
	four.start()
	four.do("fork", "acme/web", "acme/web-four", "--lazy")
	four.holds("acme/web-four", own, 0)
	four.holds("acme/web-four", image[1<<20:], 1<<20)
	refused(t, four.try("fork", "public/debian@12", "acme/again"), 1, "public")

	one.do("rm", "public/debian", "--force")
	one.do("gc", "--grace", "0s")
	r := run(t, "", "gc", "--store", bucket, "--grace", "0s", "--retention", "1s", "--key", images, "--key", acme, "--key", beta)
	if r.Code != 0 {
		t.Errorf("%+v", r)
	}
	three := newDaemon(t, bucket, flags...)
	three.start()
	for _, name := range []string{"acme/web", "beta/vm"} {
		three.do("fork", name, name+"-far")
		three.holds(name+"-far", own, 0)
		three.holds(name+"-far", image[1<<20:], 1<<20)
		three.do("verify", name+"-far", "--cold")
	}
}
