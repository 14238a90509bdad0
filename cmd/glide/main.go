// Command glide serves volumes (`glide serve`), and has a command for everything
// that the daemon can do. Each command is a small file of its own that asks the
// daemon; docs/ describes what it does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/paraglide/glide/internal/errs"
)

// version is set when the binary is built.
var version = "unknown"

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := a.main(ctx, stop, os.Args[1:])
	os.Exit(code)
}

// main runs one command line and returns the exit status. stop restores the
// default action of signals, so that a second one ends the process at once.
func (a *app) main(ctx context.Context, stop func(), args []string) int {
	defer stop()
	context.AfterFunc(ctx, stop)
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if !errors.As(err, new(toldError)) {
		complain(a.err, err)
	}
	return errs.KindOf(err).ExitCode()
}

// complain prints an error as one line.
func complain(w io.Writer, err error) {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	// If this fails, there is no other place to report to.
	_, _ = fmt.Fprintf(w, "glide: %s\n", text)
}
