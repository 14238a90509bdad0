// Package contextcmd is the command glide context: it names daemons, and chooses the one that
// commands ask.
package contextcmd

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/connect"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/terminal"
)

// Program is what the command needs of the command line it belongs to.
type Program struct {
	Daemon *connect.Flags
	// Print prints v as JSON if that was asked for, else it calls human.
	Print func(v any, human func(w io.Writer) error) error
	// JSONFlag adds --json to a command.
	JSONFlag func(*cobra.Command) *cobra.Command
}

// New returns the command. Its parent has the flags of Program.Daemon, which it makes the
// shell complete.
func New(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context",
		Short: "Name daemons, and choose the one to ask",
		Long: `A context names a daemon: its address, and the files that tell it who asks. Commands ask
the one of --context NAME, else of $GLIDE_CONTEXT, else the one in use. With --api or
$GLIDE_API no context counts, so that its token goes to its own daemon only; the other
flags and variables win over a context's files.

Contexts are in ~/.config/glide/contexts.toml (in $XDG_CONFIG_HOME if that is set). It has
paths, and no secrets. The context "default" is this machine's own daemon.`,
		Example: `  glide context add lab --api tcp:10.0.0.5:7070 --tls-ca ca.pem --token-file lab.token
  glide context use lab
  glide --context default ls`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errs.New(errs.Invalid, "glide context: there is no command %q, only ls, use, add and rm", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(list(p), use(), add(p), remove())
	return cmd
}

// Complete completes the value of --context.
func Complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := connect.ReadContexts()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return all.Names(), cobra.ShellCompDirectiveNoFileComp
}

// names completes the only argument of a command.
func names(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return Complete(cmd, args, word)
}

// listed is a context in a list.
type listed struct {
	Name  string `json:"name"`
	InUse bool   `json:"in_use"`
	connect.Context
}

func list(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List the contexts", Long: "Lists the contexts. The one in use has an asterisk.",
		Args: exactly(""),
		RunE: func(*cobra.Command, []string) error {
			all, err := connect.ReadContexts()
			if err != nil {
				return err
			}
			var out []listed
			rows := [][]string{{"", "NAME", "API", "TOKEN", "AUTHORITY", "CERTIFICATE"}}
			for _, name := range all.Names() {
				x, err := all.Of(name)
				if err != nil {
					return err
				}
				mark := ""
				l := listed{name, name == all.Use || all.Use == "" && name == connect.Default, x}
				if out = append(out, l); l.InUse {
					mark = "*"
				}
				rows = append(rows, []string{mark, name, dash(x.API), dash(x.TokenFile), dash(x.TLSCA), dash(x.TLSCert)})
			}
			return p.Print(out, func(w io.Writer) error { return terminal.Table(w, rows) })
		},
	}
	return p.JSONFlag(cmd)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func use() *cobra.Command {
	return changes("use", "Choose the context that commands use",
		"Chooses the context that commands use from now on.",
		func(all *connect.Contexts, name string) error { return all.Select(name) }, names)
}

func add(p Program) *cobra.Command {
	cmd := changes("add", "Add a context",
		"Adds a context, of the flags --api, --token-file, --tls-ca, --tls-cert and --tls-key. The files\nmust be there; no request is made.",
		func(all *connect.Contexts, name string) error { return all.Add(name, p.Daemon.Given()) }, cobra.NoFileCompletions)
	cmd.Use = "add NAME --api ADDR [--token-file FILE] [--tls-ca FILE] [--tls-cert FILE --tls-key FILE]"
	return cmd
}

func remove() *cobra.Command {
	return changes("rm", "Remove a context",
		"Removes a context. Its files stay. If it was in use, the default is.",
		func(all *connect.Contexts, name string) error { return all.Remove(name) }, names)
}

// changes is a command that changes the contexts.
func changes(verb, short, long string, change func(all *connect.Contexts, name string) error, complete cobra.CompletionFunc) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long,
		Args: exactly("the name of a context"), ValidArgsFunction: complete,
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := connect.ReadContexts()
			if err != nil {
				return err
			}
			return change(all, args[0])
		},
	}
}

// exactly takes one argument, or none if what is "".
func exactly(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		n := 1
		if what == "" {
			n = 0
		}
		switch {
		case len(args) < n:
			return errs.New(errs.Invalid, "%s: an argument is missing: %s", cmd.CommandPath(), what)
		case len(args) > n:
			return errs.New(errs.Invalid, "%s: %q is one argument too many", cmd.CommandPath(), args[n])
		}
		return nil
	}
}
