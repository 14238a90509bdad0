package main

import (
	"go/types"
	"slices"
	"strings"
)

const module = "github.com/paraglide/glide"

// blockingTypes lists types of which all methods block, but for those named.
var blockingTypes = map[string][]string{
	module + "/internal/objstore.Store":         nil,
	"github.com/cockroachdb/pebble/v2/vfs.File": {"Fd"},
	"github.com/cockroachdb/pebble/v2/vfs.FS":   {"PathBase", "PathDir", "PathJoin", "Unwrap"},
	"github.com/cockroachdb/pebble/v2.DB":       {"Metrics"},
	"os.File":                                   {"Fd", "Name", "SetDeadline", "SetReadDeadline", "SetWriteDeadline"},
	"os/exec.Cmd":                               {"Environ", "String", "StdinPipe", "StdoutPipe", "StderrPipe"},
	"net.Conn":                                  {"LocalAddr", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline", "Close"},
	"net.Dialer":                                {"MultipathTCP", "SetMultipathTCP"},
	"net.Listener":                              {"Addr", "Close"},
	"net/http.Client":                           {"CloseIdleConnections"},
}

// blockingFuncs lists functions and methods that block.
var blockingFuncs = map[string]bool{
	"time.Sleep":                            true,
	"sync.WaitGroup.Wait":                   true,
	"sync.Once.Do":                          false, // what it runs is followed, if it is a literal
	"net.Dial":                              true,
	"net.DialTimeout":                       true,
	"net.Listen":                            true,
	"net.LookupHost":                        true,
	"os.Open":                               true,
	"os.OpenFile":                           true,
	"os.Create":                             true,
	"os.ReadFile":                           true,
	"os.WriteFile":                          true,
	"os.ReadDir":                            true,
	"os.Mkdir":                              true,
	"os.MkdirAll":                           true,
	"os.Remove":                             true,
	"os.RemoveAll":                          true,
	"os.Rename":                             true,
	"os.Stat":                               true,
	"os.Lstat":                              true,
	"os.Link":                               true,
	"os.Process.Wait":                       true,
	"net/http.RoundTripper.RoundTrip":       true,
	"golang.org/x/sys/unix.Fdatasync":       true,
	"golang.org/x/sys/unix.Fsync":           true,
	"golang.org/x/sys/unix.Fallocate":       true,
	"golang.org/x/sys/unix.Pread":           true,
	"golang.org/x/sys/unix.Pwrite":          true,
	"golang.org/x/sys/unix.Preadv":          true,
	"golang.org/x/sys/unix.Pwritev":         true,
	"golang.org/x/sys/unix.Poll":            true,
	"golang.org/x/sync/errgroup.Group.Wait": true,
	"golang.org/x/sync/semaphore.Weighted.Acquire":    true,
	"golang.org/x/sync/singleflight.Group.Do":         true,
	"github.com/cockroachdb/pebble/v2.Batch.Commit":   true,
	"github.com/cockroachdb/pebble/v2.Batch.SyncWait": true,
	"github.com/cockroachdb/pebble/v2.Open":           true,
}

// blocks tells whether fn, which may be called as a method of recv, is known to
// block. An interface that embeds another has methods that are not its own: so
// it is asked of both.
func blocks(fn *types.Func, recv types.Type) bool {
	name := fullName(fn)
	if blockingFuncs[name] {
		return true
	}
	owner, _, _ := cutLast(name)
	owners := []string{owner}
	if recv != nil {
		owners = append(owners, typeName(recv))
	}
	return slices.ContainsFunc(owners, func(owner string) bool {
		except, ok := blockingTypes[owner]
		return ok && !slices.Contains(except, fn.Name())
	})
}

// fullName is path.Func or path.Type.Method.
func fullName(fn *types.Func) string {
	if fn.Pkg() == nil {
		return fn.Name()
	}
	recv := fn.Signature().Recv()
	if recv == nil {
		return fn.Pkg().Path() + "." + fn.Name()
	}
	return typeName(recv.Type()) + "." + fn.Name()
}

// typeName is path.Type of a named type, or of what a pointer to one points at.
func typeName(t types.Type) string {
	if p, ok := types.Unalias(t).(*types.Pointer); ok {
		t = p.Elem()
	}
	n, ok := types.Unalias(t).(*types.Named)
	if !ok || n.Obj().Pkg() == nil {
		return ""
	}
	return n.Obj().Pkg().Path() + "." + n.Obj().Name()
}

func cutLast(name string) (before, after string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}
