package main

import (
	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/errs"
)

// later lists commands that this release does not have yet. They accept any
// arguments, so that the user learns that and not that an argument is wrong.
var later = []struct{ use, short, does string }{
	{"top", "Watch volumes at work", "have a live view; `glide stats` has the numbers"},
}

func newLater() []*cobra.Command {
	var verbs []*cobra.Command
	for _, l := range later {
		verbs = append(verbs, &cobra.Command{
			Use:                l.use,
			Short:              l.short,
			Long:               "Not yet: this release of glide does not " + l.does + ".",
			Args:               cobra.ArbitraryArgs,
			FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
			RunE: func(cmd *cobra.Command, _ []string) error {
				return errs.New(errs.Unsupported, "glide %s is not there yet: this release of glide does not %s", cmd.Name(), l.does)
			},
		})
	}
	return verbs
}
