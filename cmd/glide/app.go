package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/connect"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/terminal"
)

// app holds what every command uses: the standard streams and the global flags.
type app struct {
	in       *os.File
	out, err io.Writer
	daemon   connect.Flags
	json     bool
}

// usage is an error of the command line: exit status 2.
func usage(format string, args ...any) error { return errs.New(errs.Invalid, format, args...) }

// takes checks the number of arguments. Use names them after the command's name.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage("%s: an argument is missing: %s", cmd.CommandPath(), cmd.UseLine())
		case most >= 0 && len(args) > most:
			return usage("%s: %q is one argument too many: %s", cmd.CommandPath(), args[most], cmd.UseLine())
		}
		return nil
	}
}

// client connects to the daemon.
func (a *app) client() (*client.Client, error) { return a.daemon.Client() }

// checkNames refuses invalid volume names before the daemon is asked. Names of
// snapshots are valid where the volume is only read.
func checkNames(snapshot bool, names ...string) error {
	for _, name := range names {
		if _, err := disk.ParseName(name, snapshot); err != nil {
			return err
		}
	}
	return nil
}

// clientFor checks names, and then connects to the daemon.
func (a *app) clientFor(snapshot bool, names ...string) (*client.Client, error) {
	if err := checkNames(snapshot, names...); err != nil {
		return nil, err
	}
	return a.client()
}

// jsonFlag adds --json to the command.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print one JSON document and nothing else")
	return cmd
}

// meter shows the progress of requests made with the returned context, until stop.
func (a *app) meter(ctx context.Context, what string) (context.Context, func()) {
	return terminal.Meter(ctx, a.err, what)
}

// print prints v as JSON with --json, else it calls human.
func (a *app) print(v any, human func(w io.Writer) error) error {
	if !a.json {
		return human(a.out)
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}

// say prints a line.
func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

// worst picks the error to exit with: the one with the greatest exit status.
func worst(failed []error) error {
	failed = slices.DeleteFunc(slices.Clone(failed), func(err error) bool { return err == nil })
	if len(failed) == 0 {
		return nil
	}
	return slices.MaxFunc(failed, func(x, y error) int {
		return errs.KindOf(x).ExitCode() - errs.KindOf(y).ExitCode()
	})
}

// toldError is an error that has been printed already.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

func told(err error) error {
	if err == nil {
		return nil
	}
	return toldError{err}
}
