package tenantcmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
)

// published is what glide publish prints.
type published struct {
	Snapshot   client.Snapshot `json:"snapshot"`
	Generation string          `json:"generation"` // that of the commit that has it
}

// NewPublish returns the command glide publish. volumes completes its argument.
func NewPublish(p Program, volumes cobra.CompletionFunc) *cobra.Command {
	return p.JSONFlag(&cobra.Command{
		Use:   "publish TENANT/VOLUME@SNAPSHOT",
		Short: "Let other tenants fork a snapshot",
		Long: `Brings a snapshot of a public tenant's volume into the store, after which every sealed
tenant can fork it. The store keeps the image once, under the public tenant's keys; what a
fork writes is sealed with the keys of its own tenant.

A tenant is public from the beginning, or never: glide tenant create public --public. Hosts
that fork its snapshots must be able to open its keys (glide serve --key).

glide rm TENANT/VOLUME@SNAPSHOT ends it. Forks that were made keep what they have.`,
		Example: `  glide import debian.raw public/debian
  glide snapshot public/debian 12
  glide publish public/debian@12
  glide fork public/debian@12 acme/vm1`,
		ValidArgsFunction: volumes,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errs.New(errs.Invalid, "glide publish: name one snapshot, such as public/debian@12")
			}
			if _, name, _ := strings.Cut(args[0], "@"); name == "" {
				return errs.New(errs.Invalid, "glide publish: %.120q is no snapshot: take one with glide snapshot, and name it as in public/debian@12", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.Client()
			if err != nil {
				return err
			}
			out, err := publish(cmd, c, args[0])
			if err != nil {
				return err
			}
			return p.Print(out, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "sealed tenants can fork %s\n", args[0])
				return err
			})
		},
	})
}

func publish(cmd *cobra.Command, c *client.Client, name string) (out published, err error) {
	volume, snapshot, _ := strings.Cut(name, "@")
	tenant, _, named := strings.Cut(volume, "/")
	if !named {
		tenant = "default"
	}
	// Who may not look at tenants is told when somebody forks it.
	if t, err := c.Tenant(cmd.Context(), tenant); err == nil && !t.Public {
		return out, errs.New(errs.Invalid, "tenant %q is not public: import the image for one that was made with glide tenant create --public", tenant)
	} else if err != nil && errs.KindOf(err) != errs.Denied {
		return out, err
	}
	list, err := c.Snapshots(cmd.Context(), volume)
	if err != nil {
		return out, err
	}
	for _, s := range list {
		if s.Name != snapshot {
			continue
		}
		f, err := c.Flush(cmd.Context(), volume)
		return published{s, f.Generation}, err
	}
	return out, errs.New(errs.NotFound, "%s has no snapshot %q: glide snapshot %s %s takes one", volume, snapshot, volume, snapshot)
}
