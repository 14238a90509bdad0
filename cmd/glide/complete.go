package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completeTime is how long a shell waits for names.
const completeTime = 2 * time.Second

// volumes completes volume names for the first n arguments, or for all
// arguments if n is negative.
func (a *app) volumes(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeTime)
		defer cancel()
		list, err := c.List(ctx, false)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]string, len(list))
		for i := range list {
			names[i] = list[i].Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a completion script for a shell",
		Long: `Prints a script that makes a shell complete glide's commands, flags and volume
names.`,
		Example: `  source <(glide completion bash)
  glide completion zsh > "${fpath[1]}/_glide"
  glide completion fish > ~/.config/fish/completions/glide.fish`,
		Args:      takes(1, 1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.out)
			case "fish":
				return cmd.Root().GenFishCompletion(a.out, true)
			}
			return usage("there is no completion for %q: choose bash, zsh or fish", args[0])
		},
	}
}
