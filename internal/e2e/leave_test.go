package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/certs/certstest"
	"github.com/paraglide/glide/internal/programs"
)

// soon is how long it may take until somebody has to leave, and leaves, on a busy machine.
const soon = 15 * time.Second

// guest is QEMU with an open connection, which does what it is told.
type guest struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

// openGuest connects QEMU, as a user of this machine if that is not 0.
func openGuest(t *testing.T, user uint32, args ...string) *guest {
	t.Helper()
	programs.Need(t, "qemu-io")
	cmd := exec.Command("qemu-io", args...)
	cmd.Dir = "/"
	if user != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &guest{t, in, bufio.NewReader(out)}
}

// at opens an export at the daemon's socket.
func (d *daemon) at(user uint32, export string) *guest {
	d.tb.Helper()
	return openGuest(d.tb.(*testing.T), user, "-f", "raw", "nbd+unix:///"+strings.ReplaceAll(export, "#", "%23")+"?socket="+d.nbd())
}

// can tells whether a command works, such as "read 0 4k".
func (g *guest) can(command string) bool {
	g.t.Helper()
	if _, err := io.WriteString(g.in, command+"\n"); err != nil {
		return false
	}
	for {
		line, err := g.out.ReadString('\n')
		switch {
		case err != nil, strings.Contains(line, "failed"), strings.Contains(line, "error"):
			return false
		case strings.Contains(line, " ops; "):
			return true
		}
	}
}

// leaves waits until the guest is disconnected. Until then, what it is told is done.
func (g *guest) leaves(t *testing.T, what string) {
	t.Helper()
	for end := time.Now().Add(soon); g.can("read 0 4k"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: its guest goes on", what)
		}
	}
}

// TestGuestsLeave: open connections of real clients, and requests that last, end soon after
// what let them in has: a token that is revoked, a user who is taken out. What was
// acknowledged is there. Others go on.
func TestGuestsLeave(t *testing.T) {
	programs.Need(t, "fio")
	tcp := openPort(t)
	dir := t.TempDir()
	users, written := filepath.Join(dir, "users"), filepath.Join(dir, "audit")
	must(t, os.WriteFile(users, []byte("4711 acme use *\n4712 acme use *\n"), 0o600))
	d := newDaemon(t, "", "--api", tcp, "--users", users, "--audit", written)
	d.start()
	d.do("create", "acme/web", "--size", "64M")
	must(t, os.Chmod(d.sock, 0o755))
	must(t, os.Chmod(d.nbd(), 0o666))
	token := func(args ...string) string {
		var x struct{ Token string }
		d.json(&x, append([]string{"token", "new", "--tenant", "acme", "--verbs", "read,use,manage"}, args...)...)
		return x.Token
	}
	leaver, stayer, short := token(), token(), token("--expires", "8s")
	expires := time.Now().Add(8 * time.Second)
	d.write("acme/web", pattern(1<<20, 1), 32<<20)

	stays, owner := d.at(0, "web#"+stayer), d.at(0, "acme/web")
	user, otherUser := d.at(4711, "web"), d.at(4712, "web")
	expiring := d.at(0, "web#"+short)
	leaves := d.at(0, "web#"+leaver)
	for _, g := range []*guest{stays, owner, user, otherUser, expiring, leaves} {
		if !g.can("read 0 4k") {
			t.Fatal("a guest cannot read")
		}
	}
	if !leaves.can("write -P 7 0 64k") || !leaves.can("write -P 8 64k 64k") {
		t.Fatal("a guest cannot write")
	}
	busy := make(chan error, 1)
	go func() { // libnbd, with requests under way all the time
		_, err := fio(t.Context(), "nbd+unix:///web%23"+leaver+"?socket="+d.nbd(), "--rw=randwrite --bs=4k --iodepth=16 --size=16m --offset=40m --time_based --runtime=120")
		busy <- err
	}()
	api := strings.TrimPrefix(tcp, "tcp:")
	follow := make(chan string, 1)
	go func() {
		out, err := exec.Command("curl", "-sS", "-H", "Authorization: Bearer "+leaver, "-w", " %{http_code}", "http://"+api+"/v1/events?after=9000000000000000&wait_ms=60000").CombinedOutput()
		follow <- fmt.Sprint(err, " ", string(out))
	}()
	sent := make(chan string, 1)
	r, w := io.Pipe()
	defer w.Close()
	go func() { // an image that does not come to its end
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+api+"/v1/volumes/half/image?size="+strconv.Itoa(1<<20), r)
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+leaver)
			req.Header.Set("Content-Type", "application/vnd.glide.image")
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				sent <- fmt.Sprint(resp.StatusCode, string(b))
				return
			}
		}
		sent <- err.Error()
	}()
	time.Sleep(time.Second)
	if len(busy)+len(follow)+len(sent) > 0 {
		t.Fatalf("what was to last does not: %d %d %d", len(busy), len(follow), len(sent))
	}

	began := time.Now()
	d.do("token", "revoke", strings.Split(leaver, "_")[1])
	leaves.leaves(t, "a token was revoked")
	t.Logf("a guest is disconnected %v after its token was revoked", time.Since(began).Round(time.Millisecond))
	for what, answer := range map[string]chan string{"events": follow, "an image": sent} {
		select {
		case s := <-answer:
			if !strings.Contains(s, "403") || !strings.Contains(s, "revoked") {
				t.Errorf("%s: %s", what, s)
			}
		case <-time.After(soon):
			t.Errorf("%s: the request goes on", what)
		}
	}
	select {
	case err := <-busy:
		if err == nil {
			t.Error("fio had no error")
		}
	case <-time.After(soon):
		t.Error("fio goes on")
	}
	refused(t, d.try("show", "acme/half"), 1, "there is no volume")
	for _, command := range []string{"read -P 7 0 64k", "read -P 8 64k 64k", "write -P 9 0 4k"} {
		if !stays.can(command) {
			t.Errorf("another token's guest: %s", command)
		}
	}
	if time.Now().Before(expires) && !expiring.can("read 0 4k") {
		t.Error("a token has ended early")
	}
	expiring.leaves(t, "a token has expired")

	must(t, os.WriteFile(users, []byte("4712 acme use *\n"), 0o600))
	user.leaves(t, "a user was taken out")
	for who, g := range map[string]*guest{"another token's": stays, "the owner's": owner, "another user's": otherUser} {
		if !g.can("write -P 3 0 64k") || !g.can("read -P 3 0 64k") {
			t.Errorf("%s guest was disconnected", who)
		}
	}
	raw, err := os.ReadFile(written)
	must(t, err)
	if want := `"verb":"use-ro","what":"NBD web goes on","outcome":"denied"`; strings.Count(string(raw), want) < 3 {
		t.Errorf("the audit file lacks %s: %s", want, raw)
	}
	d.stop()
}

// TestCertificatesLeave is the same for certificates: one that expires, and one whose
// authority the host trusts no more.
func TestCertificatesLeave(t *testing.T) {
	t.Parallel()
	ours, theirs := certstest.New(t, certstest.ECDSA), certstest.New(t, certstest.ECDSA)
	_, server := ours.Issue(certstest.Want{})
	d := newDaemon(t, "", append(withTLS("require", server), "--api", "tcp:127.0.0.1:0", "--nbd", "tcp:127.0.0.1:0")...)
	d.start()
	d.do("create", "acme/web", "--size", "1M")
	host, port, err := net.SplitHostPort(d.tcpOf("nbd"))
	must(t, err)
	open := func(w certstest.Want, export string) *guest {
		dir, _ := ours.Issue(w)
		return openGuest(t, 0, "--object", "tls-creds-x509,id=t,endpoint=client,dir="+dir, "--image-opts", "driver=nbd,host="+host+",port="+port+",tls-creds=t,export="+export)
	}
	lasts := open(certstest.Want{URI: "glide://tenant/acme"}, "web")
	whole := open(certstest.Want{}, "acme/web")
	expiring := open(certstest.Want{URI: "glide://tenant/acme", Lasts: 5 * time.Second}, "web")
	for _, g := range []*guest{lasts, whole, expiring} {
		if !g.can("read 0 4k") {
			t.Fatal("a guest cannot read")
		}
	}
	expiring.leaves(t, "a certificate has expired")
	for _, g := range []*guest{lasts, whole} {
		if !g.can("write -P 5 0 4k") {
			t.Error("another guest was disconnected")
		}
	}
	_, files := ours.Issue(certstest.Want{URI: "glide://tenant/acme"})
	follow := make(chan result, 1)
	go func() {
		follow <- run(t, "", "--api", "tcp:"+d.tcpOf("api"), "--tls-ca", ours.CA, "--tls-cert", files.Cert, "--tls-key", files.Key, "events", "--follow")
	}()
	time.Sleep(time.Second)
	raw, err := os.ReadFile(theirs.CA)
	must(t, err)
	must(t, os.WriteFile(server.CA, raw, 0o600))
	lasts.leaves(t, "an authority was taken away")
	whole.leaves(t, "an authority was taken away")
	select {
	case r := <-follow:
		refused(t, r, 1, "revoked")
	case <-time.After(soon):
		t.Error("events go on")
	}
	d.stop()
}
