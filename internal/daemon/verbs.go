package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Result is what a run of a program left.
type Result struct {
	Code     int
	Out, Err string
}

// Run runs a command to its end. An exit status is no error.
func Run(cmd *exec.Cmd) (Result, error) {
	end, err := Begin(cmd)
	if err != nil {
		return Result{Code: -1}, err
	}
	return end()
}

// Begin starts a command; what it returns waits for the end.
func Begin(cmd *exec.Cmd) (end func() (Result, error), err error) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (Result, error) {
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			err = nil
		}
		return Result{cmd.ProcessState.ExitCode(), out.String(), said.String()}, err
	}, nil
}

// Verbs runs the verbs of `glide` against one daemon.
type Verbs struct {
	Glide string // the program
	API   string // the daemon's address
}

// Command prepares a verb.
func (v Verbs) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, v.Glide, append([]string{"--api", v.API}, args...)...)
}

// Do runs a verb that has to succeed, and returns what it printed.
func (v Verbs) Do(ctx context.Context, args ...string) (string, error) {
	r, err := Run(v.Command(ctx, args...))
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil && r.Code != 0:
		err = fmt.Errorf("exit %d: %s", r.Code, strings.TrimSpace(r.Err))
	}
	if err != nil {
		return "", fmt.Errorf("glide %s: %w", strings.Join(args, " "), err)
	}
	return r.Out, nil
}

// JSON runs a verb with --json, and decodes the document that it prints.
func (v Verbs) JSON(ctx context.Context, into any, args ...string) error {
	out, err := v.Do(ctx, append(args[:len(args):len(args)], "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("glide %s --json printed no JSON document: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
