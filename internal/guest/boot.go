package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// VM says what to boot and what to do in it.
type VM struct {
	Kernel string
	Initrd string
	// Disk is the root disk: an NBD URI, or the path of a raw image.
	Disk string
	// Snapshot leaves the disk as it is: what the guest writes is thrown away.
	Snapshot bool
	// Files are put into /run/glide of the guest, by name: paths on this machine.
	// What is more than a script may not be on the disk, and needs no network so.
	Files map[string]string
	// Reconnect is how long requests to a disk over NBD are repeated while its
	// server is away, in whole seconds; 0: they fail at once. Not with Snapshot.
	Reconnect time.Duration
	// Script is run by the guest's /bin/sh -eu, as root, with / writable.
	Script string
	// Systemd makes systemd, which must be on the disk, the guest's first process.
	// The script then runs as a service, when basic.target is reached.
	Systemd bool
	Memory  int  // in MiB; 0: 512
	Net     bool // a network in which the host is 10.0.2.2
	// Line, if set, is called with each line of the script's output as it comes.
	Line    func(string)
	Timeout time.Duration // for everything; 0: two minutes
}

// Result is how it went.
type Result struct {
	Init   time.Duration // from QEMU's start until the disk's own system ran
	Total  time.Duration // until QEMU had ended
	Output string        // of the script, both streams
	Exit   int           // the script's status; -1: it did not end
}

const marker = "@glide "

// Boot boots the machine, runs the script, and powers off. It is an error if
// the script fails, too; the result then has its output.
func Boot(ctx context.Context, vm VM) (Result, error) {
	if vm.Memory == 0 {
		vm.Memory = 512
	}
	if vm.Timeout == 0 {
		vm.Timeout = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, vm.Timeout, fmt.Errorf("guest: not done after %v", vm.Timeout))
	defer cancel()
	dir, err := os.MkdirTemp("", "glide-guest-")
	if err != nil {
		return Result{Exit: -1}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	initrd, console := filepath.Join(dir, "initrd"), filepath.Join(dir, "console")
	if err := withScript(initrd, vm); err != nil {
		return Result{Exit: -1}, err
	}

	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", arguments(vm, initrd, console)...)
	// Its own group: an interrupt at the terminal is for us, and we end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return Result{Exit: -1}, err
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{Exit: -1}, fmt.Errorf("guest: %w", err)
	}
	r, off, dead := listen(stdout, started, vm.Line)
	err = cmd.Wait()
	r.Total = time.Since(started)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case dead != "":
		err = errors.New("guest: " + dead)
	case err != nil:
		err = fmt.Errorf("guest: qemu: %w: %s", err, lastLine(stderr.String()))
	case r.Exit > 0:
		err = fmt.Errorf("guest: the script exited with %d: %s", r.Exit, lastLine(r.Output))
	case r.Exit < 0 || !off:
		err = fmt.Errorf("guest: it ended before the script did")
	}
	if err != nil && r.Exit < 0 && !errors.Is(err, context.Canceled) {
		if b, _ := os.ReadFile(console); len(b) > 0 {
			err = fmt.Errorf("%w (the kernel's last words: %s)", err, lastLine(string(b)))
		}
	}
	return r, err
}

// arguments is QEMU's command line.
func arguments(vm VM, initrd, console string) []string {
	kernel := "console=ttyS1 loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on rdinit=/init"
	if vm.Systemd {
		kernel += " glide.systemd"
	}
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(vm.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-serial", "file:" + escape(console),
		"-kernel", vm.Kernel, "-initrd", initrd,
		// panic=-1: with -no-reboot, a kernel that panics ends QEMU.
		"-append", kernel,
	}
	args = append(args, disk(vm)...)
	if vm.Net {
		args = append(args, "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	return args
}

// escape protects a value in QEMU's comma-separated options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// withScript copies the initramfs and adds an archive with the script and the files.
func withScript(path string, vm VM) error {
	b, err := os.ReadFile(vm.Initrd)
	if err != nil {
		return err
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	var a archive
	a.add("script", modeExec, []byte(vm.Script))
	a.add("files", modeDir, nil)
	for name, from := range vm.Files {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		a.add("files/"+name, modeExec, data)
	}
	return os.WriteFile(path, append(b, a.bytes()...), 0o600)
}

// listen reads what the guest says until it ends. Off tells whether it went
// down in order; dead is why it gave up, "" if it did not.
func listen(r io.Reader, started time.Time, tell func(string)) (res Result, off bool, dead string) {
	res.Exit = -1
	var out strings.Builder
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		line = strings.TrimSuffix(line, "\r\n")
		line = strings.TrimSuffix(line, "\n")
		if said, ok := strings.CutPrefix(line, marker); ok {
			word, rest, _ := strings.Cut(said, " ")
			switch word {
			case "init":
				res.Init = time.Since(started)
			case "exit":
				if n, err := strconv.Atoi(rest); err == nil {
					res.Exit = n
				}
			case "off":
				off = true
			case "dead":
				dead = rest
			}
		} else if res.Init > 0 && res.Exit < 0 {
			out.WriteString(line + "\n")
			if tell != nil {
				tell(line)
			}
		}
		if err != nil {
			break
		}
	}
	if res.Output = strings.TrimRight(out.String(), "\n"); res.Output != "" {
		res.Output += "\n"
	}
	return res, off, dead
}
