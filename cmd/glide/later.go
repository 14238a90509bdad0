package main

import (
	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/errs"
)

// newLater returns the command that this release does not have yet. It accepts any
// arguments, so that the user learns that and not that an argument is wrong.
func newLater() *cobra.Command {
	const does = "have a live view; `glide stats` has the numbers"
	return &cobra.Command{
		Use: "top", Short: "Watch volumes at work", Long: "Not yet: this release of glide does not " + does + ".",
		Args: cobra.ArbitraryArgs, FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errs.New(errs.Unsupported, "glide %s is not there yet: this release of glide does not %s", cmd.Name(), does)
		},
	}
}
