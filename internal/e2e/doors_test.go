package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// as runs glide at an address with a token.
func as(t *testing.T, addr, token string, args ...string) result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	return run(t, "", append([]string{"--api", addr, "--token-file", file}, args...)...)
}

// openPort is a TCP address of this machine that nobody listens at.
func openPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return "tcp:" + l.Addr().String()
}

// tool runs a program of the system.
func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// TestTokens: a token opens what it is for, at each door, and nothing else; it is worth
// nothing from the moment when it is revoked, by a verb or by hand; nobody finds it in what
// the daemon writes.
func TestTokens(t *testing.T) {
	tcp := openPort(t)
	written := filepath.Join(t.TempDir(), "audit")
	d := newDaemon(t, "", "--api", tcp, "--log-level", "debug", "--audit", written)
	d.start()
	for _, name := range []string{"plain", "acme/web", "acme/ci-1", "other/web"} {
		d.do("create", name, "--size", "1M")
	}
	d.write("acme/web", pattern(1<<20, 7), 0)
	var texts []string
	token := func(args ...string) string {
		var x struct{ Token string }
		d.json(&x, append([]string{"token", "new"}, args...)...)
		texts = append(texts, x.Token)
		return x.Token
	}
	dev := token("--tenant", "acme", "--verbs", "read,use,manage")
	ci := token("--tenant", "acme", "--verbs", "use", "--volumes", "ci-*", "--expires", "1h")
	scrape := token("--tenant", "*", "--verbs", "metrics")
	own := token("--tenant", "acme", "--verbs", "metrics")

	var list []api.Volume
	r := as(t, tcp, dev, "ls", "--json")
	must(t, json.Unmarshal([]byte(r.Out), &list))
	if len(list) != 2 || list[0].Name != "ci-1" || list[1].Name != "web" || strings.Contains(r.Out, "other") || strings.Contains(r.Out, "plain") {
		t.Errorf("ls of acme: %+v", r)
	}
	for _, args := range [][]string{{"show", "web"}, {"show", "acme/web"}, {"fork", "web", "web-2"}, {"flush", "web-2"}, {"rm", "web-2"}, {"create", "mine", "--size", "1M"}, {"rename", "mine", "mine2"}, {"df"}, {"events"}, {"ls", "--all"}} {
		if r := as(t, tcp, dev, args...); r.Code != 0 || strings.Contains(r.Out, "other") || strings.Contains(r.Out, "plain") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	d.do("show", "acme/mine2")
	for _, args := range [][]string{{"show", "other/web"}, {"show", "default/plain"}, {"fork", "other/web", "x"}, {"rm", "other/web"}} {
		refused(t, as(t, tcp, dev, args...), 1, "there is no volume")
	}
	for _, args := range [][]string{{"gc"}, {"hosts"}, {"token", "ls"}, {"doctor", "--api", tcp}, {"attach", "web"}, {"rename", "web", "other/x"}, {"create", "other/x", "--size", "1M"}} {
		if args[0] == "doctor" {
			continue
		}
		if r := as(t, tcp, dev, args...); r.Code != 1 {
			t.Errorf("%v: %+v", args, r)
		}
	}
	refused(t, as(t, tcp, ci, "show", "web"), 1, "there is no volume")
	refused(t, as(t, tcp, ci, "rm", "ci-1"), 1, "manage")
	refused(t, as(t, tcp, "wrong", "ls"), 2, "token")
	refused(t, run(t, "", "--api", tcp, "ls"), 2, "token")
	// The same token at the host's own socket makes less of its holder.
	if r := as(t, d.api(), ci, "ls"); r.Code != 0 || strings.Contains(r.Out, "web") || !strings.Contains(r.Out, "ci-1") {
		t.Errorf("%+v", r)
	}
	metrics := func(token string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+strings.TrimPrefix(tcp, "tcp:")+"/metrics", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer resp.Body.Close()
		var b bytes.Buffer
		_, err = b.ReadFrom(resp.Body)
		must(t, err)
		return b.String()
	}
	if all := metrics(scrape); !strings.Contains(all, `volume="other/web"`) || !strings.Contains(all, "go_goroutines") {
		t.Error("metrics of the host lack something")
	}
	if mine := metrics(own); strings.Contains(mine, "other") || strings.Contains(mine, "go_goroutines") || !strings.Contains(mine, `volume="web"`) {
		t.Errorf("metrics of a tenant: %s", mine)
	}

	// NBD, with real clients, at the host's own socket.
	uri := "nbd+unix:///web%23" + dev + "?socket=" + d.nbd()
	if out, err := tool(t, "nbdinfo", "--size", uri); err != nil || strings.TrimSpace(out) != "1048576" {
		t.Errorf("nbdinfo: %v %s", err, out)
	}
	if out, err := tool(t, "qemu-img", "info", "nbd+unix:///ci-1%23"+ci+"?socket="+d.nbd()); err != nil {
		t.Errorf("qemu-img: %v %s", err, out)
	}
	for _, name := range []string{"other/web%23" + dev, "web%23" + ci, "web%23" + dev[:len(dev)-1]} {
		if out, err := tool(t, "nbdinfo", "--size", "nbd+unix:///"+name+"?socket="+d.nbd()); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}

	// Revoked, by a verb and by hand.
	var ids []api.Token
	d.json(&ids, "token", "ls")
	if len(ids) != 4 {
		t.Fatalf("%+v", ids)
	}
	d.do("token", "revoke", strings.Split(dev, "_")[1])
	refused(t, as(t, tcp, dev, "ls"), 2, "not any more")
	refused(t, d.try("token", "revoke", strings.Split(dev, "_")[1]), 1, "no token")
	must(t, os.WriteFile(filepath.Join(d.data, "tokens"), nil, 0o600))
	for end := time.Now().Add(20 * time.Second); as(t, tcp, ci, "ls").Code == 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a token that is not in the file any more is accepted")
		}
	}
	d.stop()
	if r := run(t, "", "debug", "dump", written); r.Code != 0 || !strings.Contains(r.Out, "each of which follows") {
		t.Errorf("the audit file: %+v", r)
	}
	raw, err := os.ReadFile(written)
	must(t, err)
	id := strings.Split(dev, "_")[1]
	for _, want := range []string{
		`"who":"local","from":"local","verb":"admin","what":"POST /v1/tokens","outcome":"ok"`,
		`"who":"token ` + id + `","from":"127.0.0.1","verb":"manage","what":"POST /v1/forks","outcome":"ok"`,
		`"who":"token ` + id + `","from":"127.0.0.1","verb":"manage","what":"DELETE /v1/volumes/other/web","outcome":"not_found"`,
		`"who":"token ` + id + `","from":"127.0.0.1","verb":"admin","what":"POST /v1/gc","outcome":"denied"`,
		`"who":"nobody","from":"127.0.0.1","verb":"read","what":"GET /v1/volumes","outcome":"invalid"`,
		`"who":"token ` + id + `","from":"local","verb":"use","what":"NBD web","outcome":"ok"`,
		`"who":"nobody","from":"local","verb":"use","what":"NBD web","outcome":"invalid"`,
	} {
		if !bytes.Contains(raw, []byte(want)) {
			t.Errorf("the audit file lacks %s", want)
		}
	}
	for _, text := range texts {
		if bytes.Contains(raw, []byte(text[15:40])) {
			t.Error("the audit file has a token")
		}
	}
	must(t, os.WriteFile(written, bytes.Replace(raw, []byte("manage"), []byte("read"), 1), 0o600))
	refused(t, run(t, "", "debug", "dump", written), 1, "does not follow")
	refused(t, run(t, "", d.args()...), 1, "does not follow")
	texts = append(texts, "wrong_canary")
	must(t, filepath.WalkDir(d.data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, text := range texts {
			if len(text) > 30 && bytes.Contains(raw, []byte(text[15:40])) {
				t.Errorf("%s has a token", path)
			}
		}
		return err
	}))
	for _, text := range texts {
		if len(text) > 30 && strings.Contains(d.log.String(), text[15:40]) {
			t.Error("the log has a token")
		}
	}
}

// TestBoundSockets: a socket that is bound to a tenant, or to one volume of it, shows these
// and nothing else, under plain names, whatever token comes with a request.
func TestBoundSockets(t *testing.T) {
	d := newDaemon(t, "")
	at := func(name string) string { return filepath.Join(d.sock, name) }
	d.flags = append(d.flags,
		"--nbd", "unix:"+at("acme")+"?tenant=acme", "--nbd", "unix:"+at("web")+"?tenant=acme&volume=web",
		"--api", "unix:"+at("api-acme")+"?tenant=acme", "--api", "unix:"+at("api-web")+"?tenant=acme&volume=web")
	d.start()
	for _, name := range []string{"plain", "acme/web", "acme/db", "other/web"} {
		d.do("create", name, "--size", "1M")
		d.write(name, pattern(1<<20, len(name)), 0)
	}
	for _, c := range []struct {
		socket, export string
		want           []byte
	}{{"acme", "web", pattern(1<<20, 8)}, {"acme", "db", pattern(1<<20, 7)}, {"web", "web", pattern(1<<20, 8)}, {"web", "", pattern(1<<20, 8)}, {"acme", "other/web", nil}, {"acme", "plain", nil}, {"web", "db", nil}, {"web", "acme/db", nil}} {
		n, err := nbdclient.Dial(t.Context(), "unix", at(c.socket), nbdclient.Options{Export: c.export})
		if (err == nil) != (c.want != nil) {
			t.Errorf("%q at %s: %v", c.export, c.socket, err)
		}
		if err != nil {
			continue
		}
		got := make([]byte, len(c.want))
		must(t, n.Read(got, 0))
		must(t, n.Close())
		if !bytes.Equal(got, c.want) {
			t.Errorf("%q at %s is somebody else's", c.export, c.socket)
		}
	}
	if out, err := tool(t, "nbdinfo", "--list", "nbd+unix:///?socket="+at("acme")); err != nil || strings.Contains(out, "other") || strings.Contains(out, "plain") || !strings.Contains(out, `export="db"`) {
		t.Errorf("nbdinfo --list: %v %s", err, out)
	}
	if out, err := tool(t, "qemu-io", "-f", "raw", "-c", "write -P 5 0 64k", "nbd+unix:///web?socket="+at("web")); err != nil {
		t.Errorf("qemu-io: %v %s", err, out)
	}
	if r := run(t, "", "--api", "unix:"+at("api-acme"), "ls", "--json"); r.Code != 0 || strings.Contains(r.Out, "other") || !strings.Contains(r.Out, `"name": "web"`) || !strings.Contains(r.Out, `"name": "db"`) {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "--api", "unix:"+at("api-web"), "ls", "--json"); r.Code != 0 || strings.Contains(r.Out, `"name": "db"`) || !strings.Contains(r.Out, `"name": "web"`) {
		t.Errorf("%+v", r)
	}
	refused(t, run(t, "", "--api", "unix:"+at("api-web"), "show", "db"), 1, "there is no volume")
	refused(t, run(t, "", "--api", "unix:"+at("api-web"), "fork", "web", "mine"), 1, "may not make")
	refused(t, run(t, "", "--api", "unix:"+at("api-acme"), "gc"), 1, "admin")
	// A socket is made again with its binding when somebody removes it.
	must(t, os.Remove(at("web")))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		n, err := nbdclient.Dial(t.Context(), "unix", at("web"), nbdclient.Options{Export: "web"})
		if err == nil {
			must(t, n.Close())
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if _, err := nbdclient.Dial(t.Context(), "unix", at("web"), nbdclient.Options{Export: "db"}); err == nil {
		t.Error("the socket that was made again is not bound")
	}
	for _, bad := range []string{"?tenant=", "?volume=web", "?tenant=a&x=b", "?tenant=a/b", "?tenant=a&tenant=b", "?"} {
		refused(t, run(t, "", "serve", "--data", t.TempDir(), "--nbd", "unix:"+at("bad")+bad), 2, "tenant")
	}
}

// TestUsersOfTheMachine: with a file of users, the kernel says who is at the host's own
// sockets; root goes on to own the host.
func TestUsersOfTheMachine(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	must(t, os.WriteFile(users, []byte("4711 acme read,use *\n4712 * use-ro web\n"), 0o600))
	d := newDaemon(t, "", "--users", users)
	d.start()
	for _, name := range []string{"web", "acme/web", "acme/db", "other/web"} {
		d.do("create", name, "--size", "1M")
	}
	must(t, os.Chmod(d.sock, 0o755))
	for _, name := range []string{"nbd", "api"} {
		must(t, os.Chmod(filepath.Join(d.sock, name), 0o666))
	}
	by := func(user uint32, args ...string) (string, error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct {
		user  uint32
		names []string // that it may open
		list  []string
	}{{4711, []string{"web", "db", "acme/web"}, []string{"db", "web"}}, {4712, []string{"web", "acme/web", "other/web"}, []string{"acme/web", "other/web", "web"}}, {4713, nil, nil}} {
		for _, name := range []string{"web", "db", "acme/web", "other/web"} {
			out, err := by(c.user, "nbdinfo", "--size", "nbd+unix:///"+name+"?socket="+d.nbd())
			if (err == nil) != slices.Contains(c.names, name) {
				t.Errorf("user %d, %s: %v %s", c.user, name, err, out)
			}
		}
		out, err := by(c.user, "curl", "-s", "--unix-socket", filepath.Join(d.sock, "api"), "http://glide/v1/volumes")
		var list []api.Volume
		if err != nil || (json.Unmarshal([]byte(out), &list) == nil) != (c.list != nil) {
			t.Errorf("user %d: %v %s", c.user, err, out)
		}
		var names []string
		for _, v := range list {
			names = append(names, v.Name)
		}
		if slices.Sort(names); !slices.Equal(names, c.list) {
			t.Errorf("user %d sees %q", c.user, names)
		}
	}
	if out, err := by(4712, "qemu-io", "-f", "raw", "-c", "write 0 4k", "nbd+unix:///web?socket="+d.nbd()); err == nil {
		t.Errorf("who may only read wrote: %s", out)
	}
	d.do("ls")
	must(t, os.WriteFile(users, []byte("4711 other use *\n"), 0o600))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out, _ := by(4711, "curl", "-s", "--unix-socket", filepath.Join(d.sock, "api"), "http://glide/v1/volumes")
		if strings.Count(out, `"name"`) == 1 && strings.Contains(out, `"tenant":"other"`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the file was not read again: %s", out)
		}
	}
}

// TestTokensGiven: a daemon that is told of a file of tokens lets nobody in over TCP without
// one, although the file is not there yet; the host's own socket stays as it is.
func TestTokensGiven(t *testing.T) {
	tcp := openPort(t)
	d := newDaemon(t, "", "--nbd", tcp, "--tokens", filepath.Join(t.TempDir(), "tokens"))
	d.start()
	d.do("create", "v", "--size", "1M")
	d.write("v", pattern(1<<20, 1), 0)
	if c, err := nbdclient.Dial(t.Context(), "tcp", strings.TrimPrefix(tcp, "tcp:"), nbdclient.Options{Export: "v"}); err == nil {
		t.Error("somebody without a token was let in", c.Close())
	}
}
