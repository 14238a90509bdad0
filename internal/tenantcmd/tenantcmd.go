// Package tenantcmd is the command glide tenant: it makes tenants with keys, and changes
// what opens them.
package tenantcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

// Program is what the command needs of the command line it belongs to.
type Program struct {
	Client func() (*client.Client, error)
	// Print prints v as JSON if that was asked for, else it calls human.
	Print func(v any, human func(w io.Writer) error) error
	// JSONFlag adds --json to a command.
	JSONFlag func(*cobra.Command) *cobra.Command
	// Meter shows the progress of long work until stop is called.
	Meter func(ctx context.Context, doing string) (_ context.Context, stop func())
}

// New returns the command.
func New(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tenant",
		Short: "Make tenants whose volumes are sealed, and keep their keys",
		Long: `What a sealed tenant has in the store is encrypted with keys of its own, and
deduplicated among its own volumes. Its keys are in the store, too, in a keyring that is
wrapped for key providers: a daemon opens it with those that it was given (glide serve
--key).

  file:PATH              a key of 32 bytes in a file that only its owner can read
  env:NAME               a key in an environment variable of the daemon
  credential:NAME        a key in a credential of systemd
  passphrase:file=PATH   a passphrase in a file (also env=NAME, credential=NAME)
  age:RECIPIENT          a recipient of age, who can open it elsewhere
  age:identity=PATH      identities of age in a file
  kms:ARN                a key of AWS KMS
  vault:URL              a key of Vault's transit engine

A volume that was isolated (glide create --isolate) has keys of its own. They are called
TENANT+DOMAIN, as glide show and glide tenant show have it, and are a tenant's to all of
these commands.

A tenant whose keys a daemon cannot have is locked there: its volumes stay, and nothing of
them can be read or written until the keys are back.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errs.New(errs.Invalid, "glide tenant: there is no command %q, only create, ls, show, check, seal, rewrap, rotate, rekey and erase", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(create(p), list(p), show(p), check(p), seal(p), rewrap(p), rotate(p), rekey(p), erase(p))
	return cmd
}

// named makes a command about one tenant.
func named(p Program, cmd *cobra.Command, run func(ctx context.Context, c *client.Client, name string) error) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return errs.New(errs.Invalid, "%s: an argument is missing: the name of a tenant", cmd.CommandPath())
		case len(args) > 1:
			return errs.New(errs.Invalid, "%s: %q is one argument too many", cmd.CommandPath(), args[1])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := p.Client()
		if err != nil {
			return err
		}
		return run(cmd.Context(), c, args[0])
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return names(cmd.Context(), p, len(args)), cobra.ShellCompDirectiveNoFileComp
	}
	return p.JSONFlag(cmd)
}

// names are the tenants' names, to complete the first argument.
func names(ctx context.Context, p Program, have int) (list []string) {
	c, err := p.Client()
	if err != nil || have > 0 {
		return nil
	}
	all, err := c.Tenants(ctx)
	if err != nil {
		return nil
	}
	for i := range all {
		list = append(list, all[i].Name)
	}
	return list
}

func create(p Program) *cobra.Command {
	var r client.TenantRequest
	cmd := &cobra.Command{
		Use:   "create NAME [--key PROVIDER]... [--one-key] [--public | --hide-names]",
		Short: "Make a sealed tenant",
		Long: `Makes a tenant whose volumes are sealed from the first one on. Without --key its keyring
is wrapped for the providers of the daemon (glide serve --key). Who loses the keys of all
providers loses the data, so there have to be two, such as a KMS and the recipient of an
age identity that is kept in a safe; --one-key does with one.

With --hide-names the store has nothing of the names of volumes but what is computed from
them with a key. That cannot be changed later, and whoever looks into the bucket does not see
either whose a log is: glide ls --all on a host with the keys tells.

A tenant that has volumes already is moved with glide tenant seal.`,
		Example: `  glide tenant create acme --key kms:arn:aws:kms:eu-central-1:1:key/K --key age:age1…
  glide tenant create acme --key file:/etc/glide/acme.key --one-key`,
	}
	f := cmd.Flags()
	f.StringArrayVar(&r.Keys, "key", nil, "wrap its keys for the `PROVIDER` (may be repeated)")
	f.BoolVar(&r.OneKey, "one-key", false, "one provider is enough")
	f.BoolVar(&r.Public, "public", false, "other tenants may fork what it publishes (see glide publish)")
	f.BoolVar(&r.HideNames, "hide-names", false, "hide the names of its volumes from the store, for good")
	f.StringVar(&r.SSE, "sse", "", "have the store encrypt it as well: `MODE` AES256 or aws:kms")
	f.StringVar(&r.KMSKey, "kms-key", "", "with this key of the store's KMS, an `ID`, ARN or alias (with --sse aws:kms)")
	f.StringVar(&r.Suite, "suite", "", "the `CIPHER`: aes-256-gcm (default) or xchacha20-poly1305, for processors without AES instructions")
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		r.Name = name
		t, err := c.CreateTenant(ctx, r)
		return p.tenant(t, err)
	})
}

// tenant prints a tenant.
func (p Program) tenant(t client.Tenant, err error) error {
	if err != nil {
		return err
	}
	return p.Print(t, func(w io.Writer) error { return describe(w, &t) })
}

// describe writes what is known of a tenant, a line for each.
func describe(w io.Writer, t *client.Tenant) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var failed []error
	line := func(name, value string) {
		if value != "" {
			_, err := fmt.Fprintf(tw, "%s\t%s\n", name, value)
			failed = append(failed, err)
		}
	}
	line("name", t.Name)
	line("state", t.State)
	line("reason", t.Reason)
	line("domain", t.Domain)
	line("suite", t.Suite)
	if t.Keyring > 0 {
		line("keyring", fmt.Sprint(t.Keyring))
	}
	line("opened by", t.OpenedBy)
	line("keys", strings.Join(t.Keys, "\n\t"))
	var roots []string
	for _, r := range t.Roots {
		roots = append(roots, fmt.Sprintf("%d %s since %s", r.Number, r.State, r.CreatedAt.Format("2006-01-02")))
	}
	line("roots", strings.Join(roots, "\n\t"))
	if t.Public {
		line("public", "others may fork its snapshots")
	}
	if t.Names != "" {
		line("names", t.Names+" from the store")
	}
	line("isolated", strings.Join(t.Isolated, "\n\t"))
	line("store encrypts", strings.TrimSpace(t.SSE+" "+t.KMSKey))
	return errors.Join(errors.Join(failed...), tw.Flush())
}

func list(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List the tenants", Long: "Lists the tenants that have keys, or volumes here or in the store.",
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Client()
			if err != nil {
				return err
			}
			all, err := c.Tenants(cmd.Context())
			if err != nil {
				return err
			}
			return p.Print(all, func(w io.Writer) error { return table(w, all) })
		},
	}
	return p.JSONFlag(cmd)
}

func table(w io.Writer, all []client.Tenant) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(tw, "NAME\tSTATE\tDOMAIN\tKEYS")
	for _, t := range all {
		keys := strings.Join(t.Keys, ", ")
		if t.Reason != "" {
			keys = t.Reason
		}
		state := t.State
		if t.Names != "" {
			state += ", names " + t.Names
		}
		_, lerr := fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", t.Name, state, t.Domain, keys)
		err = errors.Join(err, lerr)
	}
	return errors.Join(err, tw.Flush())
}

func show(p Program) *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a tenant and what opens its keys", Long: "Shows a tenant: its state, for whom its keys are wrapped, and its roots."}
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		t, err := c.Tenant(ctx, name)
		return p.tenant(t, err)
	})
}

func check(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "check NAME", Short: "Try everything that should open a tenant's keys",
		Long: `Tries each wrap of the tenant's keyring with what the daemon has. It fails if one does not
open that should, or none does. What the daemon has nothing for, such as the recipient of an
age identity in a safe, is listed as not tried: try it now and then where the identity is.`,
	}
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		list, err := c.CheckTenant(ctx, name)
		if err != nil {
			return err
		}
		err = p.Print(list, func(w io.Writer) error {
			tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			var failed error
			for _, k := range list {
				_, err := fmt.Fprintf(tw, "%s\t%s\n", k.Key, verdict(&k))
				failed = errors.Join(failed, err)
			}
			return errors.Join(failed, tw.Flush())
		})
		opens := 0
		for _, k := range list {
			if k.Opens {
				opens++
			} else if k.Error != "" {
				err = errors.Join(err, errs.New(errs.Unavailable, "%s does not open the keys of tenant %q", k.Key, name))
			}
		}
		if err == nil && opens == 0 {
			err = errs.New(errs.Unavailable, "this daemon opens no keys of tenant %q", name)
		}
		return err
	})
}

func verdict(k *client.KeyCheck) string {
	switch {
	case k.Opens:
		return "opens"
	case k.Error != "":
		return k.Error
	}
	return "not tried: this daemon has nothing of that kind"
}

func rotate(p Program) *cobra.Command {
	conv := false
	cmd := &cobra.Command{
		Use: "rotate NAME [--conv]", Short: "Seal with a new root from now on",
		Long: `Begins a new root of the tenant's keys: what is stored from now on is sealed with it, and
what is stored already stays as it is, readable with the old ones. Guests notice nothing,
and deduplication goes on. Other hosts follow within a minute of using the tenant.

With --conv the secret from which blocks get their ids is another, too: who has learned the
old one can no longer tell whether the tenant stores a block that he knows. What is stored
from now on shares nothing with what is there; forks go on sharing what they have.`,
	}
	cmd.Flags().BoolVar(&conv, "conv", false, "begin another secret for the ids of blocks, too")
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		t, err := c.RotateTenant(ctx, name, conv)
		return p.tenant(t, err)
	})
}

func rekey(p Program) *cobra.Command {
	rate := ""
	cmd := &cobra.Command{
		Use: "rekey NAME [--rate 100M]", Short: "Bring what is stored under the current root",
		Long: `Seals again, with the current root of the tenant's keys, what is in the store under older
ones (glide tenant rotate), and retires the roots that nothing needs any more. Guests go on
meanwhile. It can be interrupted, and repeated: what is left is found by looking. Some of it
takes time: older commits go past retention (glide gc), and volumes of other hosts begin with
the new root when they are flushed. Repeat the command then.`,
	}
	cmd.Flags().StringVar(&rate, "rate", "", "at most so many bytes a second, such as 100M (default: no limit)")
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		var bytes uint64
		if rate != "" {
			var err error
			if bytes, err = size.Parse(rate); err != nil || bytes == 0 {
				return errs.New(errs.Invalid, "--rate %.60s is not a rate: give bytes a second, like 100M", rate)
			}
		}
		ctx, stop := p.Meter(ctx, "sealing again")
		r, err := c.RekeyTenant(ctx, name, bytes)
		stop()
		if err != nil {
			return err
		}
		return p.Print(r, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%d packs (%d bytes) are under root %d now, %d roots retired\n", r.Packs, r.Bytes, r.Root, len(r.Retired))
			if r.PacksLeft+r.CommitsLeft > 0 {
				_, lerr := fmt.Fprintf(w, "under older roots: %d packs, %d commits, which go with time; repeat this then\n", r.PacksLeft, r.CommitsLeft)
				err = errors.Join(err, lerr)
			}
			if len(r.Volumes) > 0 {
				_, lerr := fmt.Fprintf(w, "to be written and flushed once: %s\n", strings.Join(r.Volumes, ", "))
				err = errors.Join(err, lerr)
			}
			return err
		})
	})
}

func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errs.New(errs.Invalid, "%s: %q is one argument too many", cmd.CommandPath(), args[0])
	}
	return nil
}

func erase(p Program) *cobra.Command {
	sure := ""
	cmd := &cobra.Command{
		Use: "erase NAME --confirm NAME", Short: "Destroy a tenant's keys, and so all of its data",
		Long: `Deletes the tenant's keyrings. Nothing that it has in the store can be read again, on any
host; garbage collection removes it. The domains of its isolated volumes go with it.

Who has a copy of a keyring, such as a backup of the bucket, and one of its keys still can:
destroy those keys too, if they open nothing else. The command lists them.

Other hosts lose the keys within a minute; guests there get errors.`,
	}
	cmd.Flags().StringVar(&sure, "confirm", "", "the `NAME` once more: there is no way back")
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		if sure != name {
			return errs.New(errs.WouldLose, "glide tenant erase %s destroys all data of the tenant, for good: add --confirm %s", name, name)
		}
		t, err := c.EraseTenant(ctx, name)
		if err != nil {
			return err
		}
		return p.Print(t, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "The keys of tenant %s are deleted. Copies of them open with:\n  %s\n", name, strings.Join(t.Keys, "\n  "))
			return err
		})
	})
}

// atOnce is how many tenants are wrapped anew at a time.
const atOnce = 32

func rewrap(p Program) *cobra.Command {
	var r client.RewrapRequest
	all := false
	cmd := &cobra.Command{
		Use:   "rewrap NAME --key PROVIDER... | --all --key PROVIDER...",
		Short: "Wrap a tenant's keys for other providers",
		Long: `Wraps the tenant's keys for the providers that are named, and for nobody else; with --add,
for them in addition to those who have it. No data is touched. The older keyrings are
deleted, but who has a copy of one, and could open it, still can: glide tenant rotate
and rekey put the data out of his reach.`,
		Example: `  glide tenant rewrap acme --add --key age:age1…
  glide tenant rewrap --all --key kms:arn:aws:kms:eu-central-1:1:key/NEW --key age:age1…`,
	}
	f := cmd.Flags()
	f.StringArrayVar(&r.Keys, "key", nil, "wrap the keys for the `PROVIDER` (may be repeated; default: those of the daemon)")
	f.BoolVar(&r.Add, "add", false, "in addition to those for whom they are wrapped")
	f.BoolVar(&r.OneKey, "one-key", false, "one provider is enough")
	f.BoolVar(&all, "all", false, "of all sealed tenants")
	named(p, cmd, nil)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 || all == (len(args) == 1) {
			return errs.New(errs.Invalid, "glide tenant rewrap: name one tenant, or say --all")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := p.Client()
		if err != nil {
			return err
		}
		if all {
			return p.rewrapAll(cmd.Context(), c, r)
		}
		t, err := c.RewrapTenant(cmd.Context(), args[0], r)
		return p.tenant(t, err)
	}
	return cmd
}

// rewrapAll wraps the keys of all sealed tenants. One that fails does not stop the others.
func (p Program) rewrapAll(ctx context.Context, c *client.Client, r client.RewrapRequest) error {
	tenants, err := c.Tenants(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	done, failed := []client.Tenant{}, []error{}
	slots := make(chan struct{}, atOnce)
	for _, t := range tenants {
		if t.Domain == "" {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			next, err := c.RewrapTenant(ctx, t.Name, r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, fmt.Errorf("tenant %q: %w", t.Name, err))
			} else {
				done = append(done, next)
			}
		})
	}
	wg.Wait()
	err = p.Print(done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d tenants wrapped anew, %d failed\n", len(done), len(failed))
		return err
	})
	return errors.Join(append(failed, err)...)
}
