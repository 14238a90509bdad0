package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// aptGroups are installed one after the other, each by a run of apt-get. The first brings npm,
// which is some hundred packages of small files itself.
var aptGroups = []string{"nodejs npm", "python3-minimal python3-requests", "git", "gcc libc6-dev", "vim-tiny less", "curl", "sqlite3", "openssh-client"}

// npmPackages go into a project each: thousands of small files.
var npmPackages = []string{"express@4.18.2", "typescript@5.3.3", "eslint@8.56.0", "lodash@4.17.21", "webpack@5.89.0", "react@18.2.0 react-dom@18.2.0"}

// installer makes the disks of forks.
type installer struct {
	dir   string // for what is temporary
	cache string // of fetched packages
	same  bool   // order
}

// install copies the base to disk, and installs everything in it, in the order that is the
// fork's.
func (in *installer) install(ctx context.Context, base, disk string, n int) (err error) {
	if err := run(ctx, "cp", "--sparse=always", base, disk); err != nil {
		return err
	}
	root := filepath.Join(in.dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	// What was mounted last goes first, also after a failure or an interrupt.
	var mounted []string
	defer func() {
		for len(mounted) > 0 {
			at := mounted[len(mounted)-1]
			mounted = mounted[:len(mounted)-1]
			err = errors.Join(err, unmount(at))
		}
	}()
	mount := func(at string, args ...string) error {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := run(ctx, "mount", append(args, at)...); err != nil {
			return err
		}
		mounted = append(mounted, at)
		return nil
	}
	if err := mount(root, "-o", "loop", disk); err != nil {
		return err
	}
	// Packages come from the cache, and what they are fetched with is not a part of the disk.
	for _, m := range [][]string{
		{"proc", "-t", "proc", "proc"},
		{"dev", "--bind", "/dev"},
		{"run", "-t", "tmpfs", "tmpfs"},
		{"tmp", "-t", "tmpfs", "tmpfs"},
		{"var/cache/apt", "--bind", filepath.Join(in.cache, "apt")},
		{"root/.npm", "--bind", filepath.Join(in.cache, "npm")},
	} {
		if len(m) == 3 && m[1] == "--bind" {
			if err := os.MkdirAll(m[2], 0o755); err != nil {
				return err
			}
		}
		if err := mount(filepath.Join(root, m[0]), m[1:]...); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "run/install"), []byte(in.script(n)), 0o755); err != nil {
		return err
	}
	for from, to := range map[string]string{"/etc/resolv.conf": "etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt": "run/ca.crt"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := run(ctx, "chroot", root, "/bin/sh", "/run/install"); err != nil {
		return err
	}
	return run(ctx, "fstrim", root) // as Debian does each week
}

// script is what a fork runs.
func (in *installer) script(n int) string {
	groups, projects := append([]string{}, aptGroups...), append([]string{}, npmPackages...)
	if !in.same {
		r := rand.New(rand.NewPCG(uint64(n), 0))
		r.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
		r.Shuffle(len(projects), func(i, j int) { projects[i], projects[j] = projects[j], projects[i] })
	}
	var s strings.Builder
	fmt.Fprintf(&s, `set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
export npm_config_cafile=/run/ca.crt npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false npm_config_prefer_offline=true
echo fork-%d > /etc/hostname
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > /etc/machine-id
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update -q
`, n)
	for _, g := range groups {
		fmt.Fprintf(&s, "apt-get install -qy --no-install-recommends -o APT::Keep-Downloaded-Packages=true %s\n", g)
	}
	for i, p := range projects {
		name, _, _ := strings.Cut(p, "@")
		fmt.Fprintf(&s, "mkdir -p /srv/%s && cd /srv/%s && npm install --no-save %s\n", name, name, p)
		if i%2 == 1 {
			s.WriteString("sync\n")
		}
	}
	return s.String()
}

// unmount waits for what still uses the place, for a while.
func unmount(at string) (err error) {
	for range 50 {
		if err = run(context.Background(), "umount", at); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// run runs a program. The error has the end of what it said.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out[max(0, len(out)-600):])
	}
	return nil
}
