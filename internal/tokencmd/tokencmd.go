// Package tokencmd is the command glide token: it makes, lists and revokes tokens.
package tokencmd

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
)

// Program is what the command needs of the command line it belongs to.
type Program struct {
	Client func() (*client.Client, error)
	// Print prints v as JSON if that was asked for, else it calls human.
	Print func(v any, human func(w io.Writer) error) error
	// JSONFlag adds --json to a command.
	JSONFlag func(*cobra.Command) *cobra.Command
}

// New returns the command.
func New(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens",
		Long: `Tokens let programs on this and other machines use the daemon, each with the verbs,
the tenant and the volumes that it is for. The daemon keeps a hash of each
(glide serve --tokens), so a token is shown once, when it is made.

The API takes a token as Authorization: Bearer TOKEN, which --token-file sends. NBD
takes it at the end of the export's name, NAME#TOKEN, over TLS or a unix socket.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errs.New(errs.Invalid, "glide token: there is no command %q, only new, ls and revoke", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newToken(p), list(p), revoke(p))
	return cmd
}

func newToken(p Program) *cobra.Command {
	var r client.TokenRequest
	cmd := &cobra.Command{
		Use:   "new --tenant TENANT --verbs VERBS [--volumes PATTERN] [--expires DURATION]",
		Short: "Make a token, and print it",
		Long: `Makes a token and prints it, this once. Verbs:

  read      see volumes, their history and what they cost
  use-ro    read their data (glide export, read-only NBD)
  use       read and write their data (NBD, glide flush)
  manage    create, import, change, fork, snapshot, move and remove volumes
  metrics   read /metrics
  peer      what other hosts of the store ask for; needs the tenant *
  admin     collection, scrubs, hosts, devices, tokens; needs the tenant *

use includes use-ro, and both and manage include read. Of other volumes than its own,
a token's holder learns nothing, not even that they exist.`,
		Example: `  glide token new --tenant acme --verbs read,use,manage --expires 30d
  glide token new --tenant acme --verbs use --volumes web --expires 24h
  glide token new --tenant '*' --verbs metrics`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Tenant == "" || len(r.Verbs) == 0 {
				return errs.New(errs.Invalid, "glide token new: --tenant and --verbs are needed")
			}
			c, err := p.Client()
			if err != nil {
				return err
			}
			t, err := c.NewToken(cmd.Context(), r)
			if err != nil {
				return err
			}
			return p.Print(t, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, t.Secret)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Tenant, "tenant", "", "the `TENANT` whose volumes it is for; * for all")
	f.StringSliceVar(&r.Verbs, "verbs", nil, "what it allows, with commas between the `VERBS`")
	f.StringSliceVar(&r.Volumes, "volumes", nil, "only volumes whose names match the `PATTERN`, such as web or ci-*")
	f.StringVar(&r.Expires, "expires", "", "how long it lasts, a `DURATION` such as 24h or 30d (default: until it is revoked)")
	return p.JSONFlag(cmd)
}

func list(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List the tokens", Long: "Lists the tokens, without their texts, which nothing keeps.",
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Client()
			if err != nil {
				return err
			}
			tokens, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return p.Print(tokens, func(w io.Writer) error { return table(w, tokens) })
		},
	}
	return p.JSONFlag(cmd)
}

func table(w io.Writer, tokens []client.Token) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var failed []error
	line := func(s ...string) {
		_, err := fmt.Fprintln(t, strings.Join(s, "\t"))
		failed = append(failed, err)
	}
	line("ID", "TENANT", "VERBS", "VOLUMES", "EXPIRES")
	for _, x := range tokens {
		volumes, until := "*", "never"
		if len(x.Volumes) > 0 {
			volumes = strings.Join(x.Volumes, ",")
		}
		if x.ExpiresAt != nil {
			if until = x.ExpiresAt.Format(time.RFC3339); x.ExpiresAt.Before(time.Now()) {
				until += " (over)"
			}
		}
		line(x.ID, x.Tenant, strings.Join(x.Verbs, ","), volumes, until)
	}
	return errors.Join(errors.Join(failed...), t.Flush())
}

func revoke(p Program) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID...", Short: "Make tokens worthless, at once",
		Long: "Makes tokens worthless, at once. NBD connections and requests of the API that\nthey opened end within two seconds.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errs.New(errs.Invalid, "glide token revoke: an argument is missing: the ID of a token, as glide token ls has it")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.Client()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := c.RevokeToken(cmd.Context(), id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errs.New(errs.Invalid, "%s: %q is one argument too many", cmd.CommandPath(), args[0])
	}
	return nil
}
