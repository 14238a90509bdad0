package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/paraglide/glide/internal/contextcmd"
	"github.com/paraglide/glide/internal/nearest"
	"github.com/paraglide/glide/internal/tenantcmd"
	"github.com/paraglide/glide/internal/tokencmd"
)

// The groups of verbs in help.
const (
	groupVolumes = "volumes"
	groupMove    = "move"
	groupLook    = "look"
	groupDaemon  = "daemon"
	groupLater   = "later"
)

// newRoot builds the command line.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "glide",
		Short: "Disks for microVMs, on local SSD and in an object store",
		Long: `Glide gives microVMs their disks: volumes served over NBD, written to the
host's own SSD, forked in milliseconds, and kept in an object store.

  glide serve                        run the daemon, one per host
  glide import debian.qcow2 debian   create a volume from an image
  glide fork debian vm1              create a disk for a VM, in milliseconds
  glide uri vm1                      print the URI for QEMU

NAME is [tenant/]name. NAME@SNAPSHOT works where a volume is only read.
SIZE is a number with K, M, G or T (binary).
Exit status: 0 done; 1 failed; 2 wrong command line; 3 the command would lose data
and needs --force.`,
		Args:              cobra.ArbitraryArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := ""
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				hint = ", did you mean " + strings.Join(s, " or ") + "?"
			}
			return usage("there is no command %q%s (glide help lists them)", args[0], hint)
		},
	}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return checkValues(cmd) }
	root.SuggestionsMinimumDistance = 2
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		hint := ""
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			var known []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
			hint = nearest.Hint(unknown.GetSpecifiedName(), known)
		}
		var wrong *pflag.InvalidValueError
		var number *strconv.NumError
		switch {
		case !errors.As(err, &wrong):
		case wrong.GetFlag().Value.Type() == "bool":
			err = fmt.Errorf("%s is on or off, not %q", spelled(wrong.GetFlag()), wrong.GetValue())
		case errors.As(err, &number):
			err = fmt.Errorf("%q is not a number for %s", wrong.GetValue(), spelled(wrong.GetFlag()))
		}
		return usage("%s: %w%s (see %s --help)", cmd.CommandPath(), err, hint, cmd.CommandPath())
	})
	a.daemon.Declare(root.PersistentFlags())
	_ = root.RegisterFlagCompletionFunc("context", contextcmd.Complete) // the flag is there

	add := func(group, title string, verbs ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: group, Title: title})
		for _, v := range verbs {
			v.GroupID = group
			v.DisableFlagsInUseLine = true
			root.AddCommand(v)
		}
	}
	add(groupVolumes, "Volumes:",
		newCreate(a), newImport(a), newExport(a), newLs(a), newShow(a), newRm(a), newRestore(a), newRename(a), newResize(a), newSet(a))
	tenancy := tenantcmd.Program{Client: a.client, Print: a.print, JSONFlag: a.jsonFlag, Meter: a.meter}
	add(groupMove, "Copies and moves:",
		newFork(a), newSnapshot(a), newSnapshots(a), tenantcmd.NewPublish(tenancy, a.volumes(1)), newRollback(a), newFlush(a), newSleep(a), newWake(a),
		newAttach(a), newDetach(a))
	add(groupLook, "Looking:",
		newURI(a), newLog(a), newDiff(a), newDf(a), newCost(a), newVerify(a), newHydrate(a), newStats(a), newDebug(a))
	add(groupDaemon, "Daemon and program:",
		newServe(a), newHosts(a), newHost(a), newEvents(a), newDoctor(a), newGC(a), newScrub(a), tokencmd.New(tokencmd.Program{Client: a.client, Print: a.print, JSONFlag: a.jsonFlag}), tenantcmd.New(tenancy),
		contextcmd.New(contextcmd.Program{Daemon: &a.daemon, Print: a.print, JSONFlag: a.jsonFlag}), newVersion(a), newCompletion(a))
	add(groupLater, "Not in this release yet:", newLater())
	help := &cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command",
		Long:                  "Explains a command, or lists them.",
		GroupID:               groupDaemon,
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if len(args) == 0 {
				for _, c := range cmd.Root().Commands() {
					if !c.Hidden {
						names = append(names, c.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 || len(args) > 0 && target == cmd.Root() {
				return usage("there is no command %q (glide help lists them)", strings.Join(args, " "))
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
	root.SetHelpCommand(help)
	root.AddCommand(help)
	return root
}

// checkValues refuses a flag with an empty value, which an unset variable in a
// script leaves: glide wake --expect-generation "$G" must not silently expect
// nothing. For the global flags, an empty value means the default.
func checkValues(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.String() == "" && f.Value.Type() == "string" && cmd.InheritedFlags().Lookup(f.Name) == nil {
			err = usage("%s: --%s has no value", cmd.CommandPath(), f.Name)
		}
	})
	return err
}

// spelled is a flag as it is typed.
func spelled(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "-" + f.Shorthand
	}
	return "--" + f.Name
}
