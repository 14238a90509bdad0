package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/programs"
)

// lab is a small data centre: hosts and an S3 server, each in a network
// namespace of its own, behind one switch. Nothing of it is in the machine's own
// network, so labs do not meet. The test speaks to the hosts over unix sockets,
// as a guest and an operator on the host would, whatever the network does.
type lab struct {
	s3     *s3test.Server
	prefix string // of the names of its namespaces
	token  string // file

	mu    sync.Mutex
	hosts int
}

const (
	labName   = "glide-e2e-" // and the process id
	storeAddr = "10.83.0.1"
)

// newLab makes a lab without hosts.
func newLab(t *testing.T) *lab {
	t.Helper()
	programs.NeedRoot(t)
	programs.Need(t, "ip")
	sweepLabs(t)
	l := &lab{prefix: fmt.Sprintf("%s%d-", labName, os.Getpid()), token: filepath.Join(t.TempDir(), "token")}
	must(t, os.WriteFile(l.token, []byte("token-of-the-lab"), 0o600))
	l.space(t, "store")
	// With an address of its own: else it has one of its ports', and another when
	// ports come and go, which the hosts do not learn for many seconds.
	l.ip(t, "store", "link add br0 address 02:00:00:00:83:01 type bridge")
	l.ip(t, "store", "addr add "+storeAddr+"/24 dev br0")
	l.ip(t, "store", "link set br0 up")
	l.s3 = s3test.New(t, s3test.Options{Within: l.within("store"), Addr: storeAddr + ":7070"})
	return l
}

// sweepLabs removes what killed runs left.
func sweepLabs(t *testing.T) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "list").Output()
	must(t, err)
	for _, line := range strings.Split(string(out), "\n") {
		name, _, _ := strings.Cut(line, " ")
		rest, ours := strings.CutPrefix(name, labName)
		id, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(id)
		if ours && err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			t.Logf("removing namespace %s of a test that was killed", name)
			_ = exec.Command("ip", "netns", "del", name).Run() // another test may be faster
		}
	}
}

// space makes a namespace, for as long as the test runs.
func (l *lab) space(tb testing.TB, name string) {
	tb.Helper()
	l.sh(tb, "netns", "add", l.prefix+name)
	tb.Cleanup(func() { l.sh(tb, "netns", "del", l.prefix+name) })
	l.ip(tb, name, "link set lo up")
}

func (l *lab) within(name string) []string { return []string{"ip", "netns", "exec", l.prefix + name} }

// ip runs ip in a namespace.
func (l *lab) ip(tb testing.TB, name, command string) {
	tb.Helper()
	l.sh(tb, append([]string{"-n", l.prefix + name}, strings.Fields(command)...)...)
}

func (l *lab) sh(tb testing.TB, args ...string) {
	tb.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		tb.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// labHost is a daemon in a namespace of its own.
type labHost struct {
	*daemon
	lab  *lab
	port string // of the switch
}

// host starts a daemon behind a new port of the switch.
func (l *lab) host(t *testing.T, flags ...string) *labHost {
	t.Helper()
	l.mu.Lock()
	l.hosts++
	n := l.hosts
	l.mu.Unlock()
	name := fmt.Sprintf("host%d", n)
	h := &labHost{lab: l, port: fmt.Sprintf("port%d", n)}
	addr := fmt.Sprintf("10.83.0.%d", 10+n)
	l.space(t, name)
	l.ip(t, "store", fmt.Sprintf("link add %s type veth peer name eth0 netns %s%s", h.port, l.prefix, name))
	l.ip(t, "store", fmt.Sprintf("link set %s master br0 up", h.port))
	l.ip(t, name, "addr add "+addr+"/24 dev eth0")
	l.ip(t, name, "link set eth0 up")
	h.daemon = newDaemon(t, l.s3.URL, append([]string{
		"--wal-limit", "1G", "--cache", "64M", "--nbd", "tcp:" + addr + ":10809",
		"--api", "tcp:" + addr + ":7071", "--advertise", "tcp:" + addr + ":7071", "--token-file", l.token, "--peers-allow", "10.83.0.0/24",
	}, flags...)...)
	h.within = l.within(name)
	h.start()
	return h
}

// cut takes the host's cable out.
func (h *labHost) cut() { h.lab.ip(h.tb, "store", "link set "+h.port+" down") }

// join puts it back in.
func (h *labHost) join() { h.lab.ip(h.tb, "store", "link set "+h.port+" up") }

// apart lets a host reach the store and no other host that is set apart too.
func (h *labHost) apart() {
	h.lab.ip(h.tb, "store", "link set "+h.port+" type bridge_slave isolated on")
}

// freeze stops the daemon as a hung machine stops it; thaw lets it go on.
func (h *labHost) freeze() { h.signal(syscall.SIGSTOP) }
func (h *labHost) thaw()   { h.signal(syscall.SIGCONT) }

func (h *labHost) signal(s syscall.Signal) {
	h.tb.Helper()
	must(h.tb, h.proc.Signal(s))
}
