package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a server that was started.
type Process struct {
	Cmd *exec.Cmd
	Log *Log // its standard error

	ready  chan string   // its ready line, once
	line   string        // the same, when WaitReady has seen it
	exited chan struct{} // closed when it has ended
	rest   string        // standard output but for the ready line; set before exited is closed
}

// Start starts a command. What it says on standard error goes to the log, which may
// be one that was used before, or nil for a new one.
func Start(cmd *exec.Cmd, log *Log) (*Process, error) {
	if log == nil {
		log = &Log{}
	}
	own(cmd)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Cmd: cmd, Log: log, ready: make(chan string, 1), exited: make(chan struct{})}
	go p.follow(out)
	return p, nil
}

// follow reads standard output to its end, and then waits for the process.
func (p *Process) follow(out io.Reader) {
	var rest strings.Builder
	for r, seen := bufio.NewReader(out), false; ; {
		line, err := r.ReadString('\n')
		if !seen && err == nil && strings.HasPrefix(line, "glide: ready") {
			seen = true
			p.ready <- strings.TrimSpace(line)
		} else {
			rest.WriteString(line)
		}
		if err != nil {
			break
		}
	}
	_ = p.Cmd.Wait()
	p.rest = rest.String()
	close(p.exited)
}

// Serve starts a `glide serve` and waits until it is ready. If it is not in time, it
// is killed.
func Serve(ctx context.Context, cmd *exec.Cmd, log *Log, limit time.Duration) (*Process, error) {
	p, err := Start(cmd, log)
	if err != nil {
		return nil, err
	}
	if err := p.WaitReady(ctx, limit); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// WaitReady waits for the line by which `glide serve` says that it is ready. One
// goroutine may call it.
func (p *Process) WaitReady(ctx context.Context, limit time.Duration) error {
	select {
	case p.line = <-p.ready:
		return nil
	case <-p.exited:
		return fmt.Errorf("the daemon ended before it was ready, %v: %s", p.Cmd.ProcessState, p.Log.LastLine())
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(limit):
		return fmt.Errorf("the daemon is not ready after %v: %s", limit, p.Log.LastLine())
	}
}

// WaitListening waits until a server accepts connections at a TCP address.
func (p *Process) WaitListening(ctx context.Context, addr string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s does not listen at %s after %v: %s", p.Cmd.Path, addr, limit, p.Log.LastLine()))
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended, %v: %s", p.Cmd.Path, p.Cmd.ProcessState, p.Log.LastLine())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ReadyLine is what the daemon said when it was ready.
func (p *Process) ReadyLine() string { return p.line }

// Field is a value of the ready line; "" if it is not there.
func (p *Process) Field(name string) string {
	_, rest, _ := strings.Cut(p.line, " "+name+"=")
	value, _, _ := strings.Cut(rest, " ")
	return value
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode is the exit status of a process that has ended.
func (p *Process) ExitCode() int {
	<-p.exited
	return p.Cmd.ProcessState.ExitCode()
}

// Output is what a process that has ended wrote to standard output besides the ready line.
func (p *Process) Output() string {
	<-p.exited
	return p.rest
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.Cmd.Process.Signal(s) }

// Kill is kill -9. It returns when the process is gone.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.exited
}

// Wait waits for the end of a process that was told to end. One that takes longer
// is made to say what it does, and killed: that is an error.
func (p *Process) Wait(limit time.Duration) error {
	select {
	case <-p.exited:
		return nil
	case <-time.After(limit):
	}
	_ = p.Signal(syscall.SIGQUIT) // the goroutines are then in the log
	select {
	case <-p.exited:
	case <-time.After(time.Second):
		p.Kill()
	}
	return fmt.Errorf("process %d did not end within %v", p.Cmd.Process.Pid, limit)
}

// Stop asks the process to end and waits until it has. It is an error if that takes
// longer than the limit, or if the exit status is not 0.
func (p *Process) Stop(limit time.Duration) error {
	_ = p.Signal(syscall.SIGTERM)
	if err := p.Wait(limit); err != nil {
		return err
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("exit status %d after SIGTERM: %s", code, p.Log.LastLine())
	}
	return nil
}

// ShortDir makes a directory whose name leaves room for a socket's: the kernel
// takes 107 bytes. Who calls it removes it.
func ShortDir() (string, error) { return os.MkdirTemp("", "glide") }

// FreeAddr is a TCP address of the loopback interface at which nobody listens now.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
