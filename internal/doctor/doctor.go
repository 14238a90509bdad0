// Package doctor checks what a daemon needs of its machine, its data directory and its
// store, and says what to fix.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/installation"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

// storeTime bounds how long Run waits for the store.
const storeTime = 15 * time.Second

// Run asks the daemon to check itself. If none answers, it checks what one would need, with
// the settings that flags give. version is the program's own.
func Run(ctx context.Context, c *client.Client, version string, flags map[string][]string) ([]client.Check, error) {
	checks := []client.Check{{Name: "program", OK: true, Detail: "glide " + version}, checkFiles()}
	h, err := c.Host(ctx)
	switch {
	case err == nil:
		checks = append(checks, client.Check{Name: "daemon", OK: true, Detail: fmt.Sprintf("glide %s serves %d volumes at %s", h.Version, h.Volumes, c.Addr())})
		own, err := c.Doctor(ctx)
		return append(checks, own...), err
	case errs.KindOf(err) != errs.Unavailable:
		return nil, err
	}
	cfg, cerr := config.Load(config.ProcessSources(atData(flags, c.Addr())))
	if cerr != nil {
		return append(checks, failed("settings", cerr, "see docs/configuration.md")), nil
	}
	if pid := client.Holder(cfg.Data); pid != 0 {
		return append(checks, failed("daemon", err, fmt.Sprintf("process %d serves from %s and cannot be asked: look at its log; kill -QUIT %d shows what it does", pid, cfg.Data, pid))), nil
	}
	checks = append(checks, client.Check{Name: "daemon", OK: true, Detail: err.Error()})
	checks = append(checks, client.Check{Name: "settings", OK: true, Detail: "they make sense"})
	kernel := client.Check{Name: "kernel devices", OK: true, Detail: kernelnbd.Describe(kernelnbd.Kernel{}.Check())}
	checks = append(checks, checkData(cfg.Data), checkStore(ctx, cfg.Store), kernel)
	return append(checks, Files(cfg, "")...), nil
}

// atData are the settings for a daemon at an address: unless a data directory is
// named, it is that of the socket.
func atData(flags map[string][]string, addr string) map[string][]string {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok || flags["data"] != nil || flags["config"] != nil || os.Getenv("GLIDE_DATA") != "" || os.Getenv("GLIDE_CONFIG") != "" {
		return flags
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "host.json")); err != nil {
		return flags // it is elsewhere
	}
	flags = maps.Clone(flags)
	flags["data"] = []string{filepath.Dir(path)}
	return flags
}

func failed(name string, err error, fix string) client.Check {
	return client.Check{Name: name, Detail: terminal.OneLine(err.Error()), Fix: fix}
}

// fewFiles is a limit of open files that a busy host would reach.
const fewFiles = 4096

func checkFiles() client.Check {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return failed("open files", err, "")
	}
	if l.Max < fewFiles {
		return failed("open files", fmt.Errorf("at most %d files may be open", l.Max), "raise the limit (LimitNOFILE=, ulimit -Hn)")
	}
	return client.Check{Name: "open files", OK: true, Detail: fmt.Sprintf("%d may be open", l.Max)}
}

// fewBytes is too little free space for a daemon to start with.
const fewBytes = 1 << 30

// checkData tries to write to the data directory, or to where it would be created.
func checkData(dir string) client.Check {
	const name = "data directory"
	at := dir
	for {
		_, err := os.Stat(at)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) || at == filepath.Dir(at) {
			return failed(name, err, "choose another with --data")
		}
		at = filepath.Dir(at)
	}
	f, err := os.CreateTemp(at, ".glide-doctor-")
	if err != nil {
		return failed(name, fmt.Errorf("%s cannot be written to: %w", at, err), "choose another with --data, or run glide as its owner")
	}
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
		return failed(name, fmt.Errorf("%s cannot be written to: %w", at, err), "check the disk")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return failed(name, err, "check the disk")
	}
	free := st.Bavail * uint64(st.Bsize)
	if free < fewBytes {
		return failed(name, fmt.Errorf("only %s are free under %s", size.Human(free), at), "make room, or choose another disk with --data")
	}
	return client.Check{Name: name, OK: true, Detail: fmt.Sprintf("%s can be written to, %s are free", dir, size.Human(free))}
}

// checkStore probes the store as serve would.
func checkStore(ctx context.Context, url string) client.Check {
	if dir, ok := objstore.FileDir(url); ok {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			c := checkData(dir) // opening the store would create it
			if c.Name = "store"; !c.OK {
				c.Fix = "choose another with --store, or run glide as its owner"
			}
			return c
		}
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	store, err := objstore.Open(ctx, url, objstore.Options{})
	if err == nil {
		err = installation.Prove(ctx, store, url)
	}
	if err != nil {
		return failed("store", err, "check --store, its credentials and its network; local volumes work without it")
	}
	return client.Check{Name: "store", OK: true, Detail: store.String() + " answers, and has every property that a store must have"}
}
