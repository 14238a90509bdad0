// Command glide serves volumes (`glide serve`) and speaks to the daemon that
// does. Every verb is a small file of its own; what a verb does is told in
// docs/ and decided by the daemon.
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

// main runs one command line and returns the exit status. stop undoes what ctx
// does to signals: a second one ends the process at once.
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
	// There is no other place to report to if this fails.
	_, _ = fmt.Fprintf(w, "glide: %s\n", text)
}
