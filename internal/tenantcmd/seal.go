package tenantcmd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

func seal(p Program) *cobra.Command {
	var r client.SealRequest
	rate := ""
	cmd := &cobra.Command{
		Use:   "seal NAME [--key PROVIDER]... [--one-key] [--rate 100M]",
		Short: "Seal a tenant that has volumes",
		Long: `Gives a plain tenant keys, and stores again with them what its volumes and snapshots have.
Guests go on meanwhile. First give all hosts that use the tenant what opens its keys (glide
serve --key): those that cannot open them serve it no more.

The command does what can be done on this host, volumes that sleep in the store included,
and says what is left for other hosts: run it there, and then here again. It may be
interrupted, and goes on where it was. When nothing is left it waits five minutes, until no
host can take the tenant for a plain one, looks at everything again, and ends the time in
which plain text is read.

History is not moved: from the beginning, no fork, rollback or restore brings back a state
from before. Fork or snapshot first what is to be kept.

What was plain stays in the store until garbage collection has removed it, and in versions,
replicas and backups of the bucket as long as those are kept: they are readable without any
key.`,
		Example: `  glide tenant seal acme --key kms:arn:aws:kms:eu-central-1:1:key/K --key age:age1… --rate 100M`,
	}
	f := cmd.Flags()
	f.StringArrayVar(&r.Keys, "key", nil, "wrap its keys for the `PROVIDER` (may be repeated; default: those of the daemon)")
	f.BoolVar(&r.OneKey, "one-key", false, "one provider is enough")
	f.StringVar(&r.Suite, "suite", "", "the `CIPHER`: aes-256-gcm (default) or xchacha20-poly1305, for processors without AES instructions")
	f.StringVar(&rate, "rate", "", "read at most so many `BYTES` a second, such as 100M")
	return named(p, cmd, func(ctx context.Context, c *client.Client, name string) error {
		if rate != "" {
			var err error
			if r.Rate, err = size.Parse(rate); err != nil || r.Rate == 0 {
				return errs.New(errs.Invalid, "--rate %.60s is not a rate: give bytes a second, like 100M", rate)
			}
		}
		ctx, stop := p.Meter(ctx, "sealing")
		s, err := c.SealTenant(ctx, name, r)
		stop()
		if err != nil {
			return err
		}
		if err := p.Print(s, func(w io.Writer) error { return sealing(w, name, &s) }); err != nil || len(s.Left) == 0 {
			return err
		}
		return errs.New(errs.Busy, "%d of tenant %q left: see above", len(s.Left), name)
	})
}

// sealing writes what a call has done.
func sealing(w io.Writer, name string, s *client.Sealing) error {
	_, err := fmt.Fprintf(w, "%d volumes and snapshots, %d blocks, %s stored again\n", s.Volumes, s.Blocks, size.Human(s.Bytes))
	for _, l := range s.Left {
		what := l.Volume
		if what == "" {
			what = "host " + l.Host
		}
		_, lerr := fmt.Fprintf(w, "left: %s: %s\n", what, l.Reason)
		err = errors.Join(err, lerr)
	}
	if len(s.Left) == 0 {
		_, lerr := fmt.Fprintf(w, "Tenant %s is sealed. What it stored before is readable in old versions and backups of the bucket, and until glide gc has removed it.\n", name)
		err = errors.Join(err, lerr)
	}
	return err
}
