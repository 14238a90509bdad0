package guest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// keeper is the name under which the test binary runs in a guest: it is then a
// client that does what nbd-client (3.24) does not. It lets the kernel's requests
// wait while the server is away, and gives the device a new connection.
const keeper = "nbdkeep"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == keeper {
		fmt.Fprintln(os.Stderr, keep(os.Args[1], os.Args[2]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// keep makes an export of a server at a TCP address /dev/nbd0, for as long as the
// process lives.
func keep(addr, export string) error {
	var kernel kernelnbd.Kernel
	c := kernelnbd.Config{Timeout: 2 * time.Second, DeadTimeout: time.Minute, Backend: addr + "/" + export}
	for connected := false; ; {
		sock, info, err := connect(addr, export)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			time.Sleep(200 * time.Millisecond)
			continue
		}
		c.Size, c.Flags = info.Size, info.Flags
		if connected {
			err = kernel.Reconnect(c, sock)
		} else {
			_, err = kernel.Connect(c, sock)
		}
		if err != nil {
			return err
		}
		connected = true
		// The kernel reads what comes; that nothing will come any more is for all to see.
		for n := 0; n == 0; {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(sock.Fd()), Events: unix.POLLRDHUP}}, -1)
			if err != nil && err != unix.EINTR {
				return err
			}
			n = max(n, 0)
		}
		_ = sock.Close()
	}
}

// connect opens an export for the kernel.
func connect(addr, export string) (*os.File, nbdclient.Info, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nbdclient.Info{}, err
	}
	info, err := nbdclient.Handshake(ctx, nc, export)
	if err != nil {
		return nil, info, err
	}
	defer func() { _ = nc.Close() }()
	sock, err := nc.(*net.TCPConn).File()
	return sock, info, err
}
