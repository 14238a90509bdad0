package main

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/collect"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newGC(a *app) *cobra.Command {
	var grace, retention time.Duration
	var store string
	var key []string
	var r client.CollectRequest
	cmd := &cobra.Command{
		Use:   "gc [--grace DURATION] [--store URL] [--dry-run] [--forget-names [--force]]",
		Short: "Collect garbage in the store",
		Long: `Deletes what nothing in the store refers to any more: packs, commits past
retention, and what removed volumes and crashed uploads left behind. Guests, forks
and flushes go on meanwhile, on all hosts.

A run flags what seems to be garbage. The first run after the grace period looks
again, deletes what still is, and ends the round. A daemon has its own grace period
(glide serve --gc-grace), which --grace overrules. Until then glide gc plan lists
what is flagged, and glide gc undelete takes it back. --grace 0s does all of it in
one run, and leaves no time to take anything back.

Removed volumes leave their names: small objects that keep a host which was away
from publishing such a volume again. --forget-names removes those that are older
than the retention and whose history is collected. It wants --force: use it when no
host is left that had one of them.

With --store it needs no daemon, and keeps replaced commits for the --retention given
here; else the daemon's applies. Daemons run rounds by themselves (glide serve --gc,
--gc-interval, --gc-grace), one host of a store at a time.`,
		Example: `  glide gc
  glide gc --store s3://bucket/prefix --dry-run`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("glide gc: there is no command %q, only plan, status and undelete", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case grace < 0:
				return usage("--grace %s: a time cannot be negative", grace)
			case retention < 0:
				return usage("--retention %s: a time cannot be negative", retention)
			case cmd.Flags().Changed("retention") && store == "":
				return usage("--retention is for --store only: a daemon has its own")
			case len(key) > 0 && store == "":
				return usage("--key is for --store only: a daemon has its own")
			case r.Force && !r.Forget:
				return usage("--force is for --forget-names only")
			}
			if cmd.Flags().Changed("grace") {
				r.Grace = grace.String()
			}
			collect := a.collect
			if store != "" {
				collect = collectStore(store, key, grace, retention)
			}
			ctx, stop := a.meter(cmd.Context(), "collecting")
			c, s, err := collect(ctx, r)
			stop()
			if err != nil {
				return err
			}
			return a.print(c, func(w io.Writer) error { return printCollection(w, &c, &s, &r) })
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", gc.DefaultGrace, "how long flagged objects can be taken back, a `DURATION`; 0s: flag, look again and delete at once")
	cmd.Flags().StringVar(&store, "store", "", "collect in the store at this `URL`, without a daemon")
	cmd.Flags().StringArrayVar(&key, "key", nil, keyUsage)
	cmd.Flags().DurationVar(&retention, "retention", collect.DefaultRetention, "with --store: how long replaced commits are kept, a `DURATION`")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "only count what would be flagged")
	cmd.Flags().BoolVar(&r.Forget, "forget-names", false, "forget removed volumes of which nothing but the name is left")
	cmd.Flags().BoolVar(&r.Force, "force", false, "forget names although a host that was away may think that it has such a volume")
	cmd.AddCommand(newGCPlan(a), newGCStatus(a), newUndelete(a))
	return a.jsonFlag(cmd)
}

// collect runs a round through the daemon.
func (a *app) collect(ctx context.Context, r client.CollectRequest) (client.Collection, client.CollectStatus, error) {
	c, err := a.client()
	if err != nil {
		return client.Collection{}, client.CollectStatus{}, err
	}
	out, err := c.Collect(ctx, r)
	if err != nil || a.json {
		return out, client.CollectStatus{}, err
	}
	s, err := c.CollectStatus(ctx)
	return out, s, err
}

// collectStore runs a round in this process.
func collectStore(url string, key []string, grace, retention time.Duration) func(context.Context, client.CollectRequest) (client.Collection, client.CollectStatus, error) {
	return func(ctx context.Context, r client.CollectRequest) (c client.Collection, s client.CollectStatus, err error) {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19) // guests of this machine go first
		ctx = objstore.WithRetryBudget(ctx)
		store, _, err := openStore(ctx, url)
		if err != nil {
			return c, s, err
		}
		return collect.CollectStore(ctx, store, key, grace, retention, r)
	}
}

func printSkipped(w io.Writer, list []client.Skipped) (err error) {
	for _, x := range list {
		err = errors.Join(err, say(w, "garbage of domain %s stays: %s", x.Domain, x.Why))
	}
	return err
}

func printCollection(w io.Writer, c *client.Collection, s *client.CollectStatus, r *client.CollectRequest) (err error) {
	flagged, until := size.Human(c.FlaggedBytes), s.UndoUntil
	if grace, err := time.ParseDuration(r.Grace); err == nil {
		until = s.FlaggedAt.Add(grace)
	}
	if c.DeletedObjects > 0 {
		err = say(w, "deleted %d objects (%s)", c.DeletedObjects, size.Human(c.DeletedBytes))
	}
	if c.CompactedPacks > 0 && err == nil {
		err = say(w, "compacted %d packs; what was live in them takes %s now", c.CompactedPacks, size.Human(c.CompactedBytes))
	}
	if err == nil {
		err = printSkipped(w, c.Skipped)
	}
	switch {
	case err != nil:
	case r.DryRun && c.FlaggedObjects > 0 && c.Round == 0:
		err = say(w, "a round would flag %d objects (%s)", c.FlaggedObjects, flagged)
	case s.Stage == gc.StageFlagged && c.FlaggedObjects > 0:
		err = say(w, "round %d: %d objects (%s) flagged; they can be deleted from %s on", s.Round, c.FlaggedObjects, flagged, terminal.Day(until))
	case c.Round == 0:
		err = say(w, "nothing to collect")
	case c.DeletedObjects == 0:
		err = say(w, "round %d: nothing was deleted", c.Round)
	}
	switch {
	case err != nil || !r.Forget:
	case r.DryRun:
		err = say(w, "%d name(s) of removed volumes would be forgotten", c.ForgottenNames)
	default:
		err = say(w, "forgot %d name(s) of removed volumes", c.ForgottenNames)
	}
	if err == nil && c.ForeignObjects > 0 {
		err = say(w, "%d objects in the store are not Glide's, and stay", c.ForeignObjects)
	}
	return err
}

func newGCPlan(a *app) *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:                   "plan",
		Short:                 "List what is flagged as garbage",
		Long:                  "Lists what the open rounds have flagged. Commits are listed by epoch, under the key\nof the epoch's first one.",
		Args:                  takes(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := ask(a, cmd, (*client.Client).CollectPlan)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := [][]string{{"KIND", "BYTES", "FLAGGED", "KEY"}}
				for _, p := range list {
					rows = append(rows, []string{p.Kind, strconv.FormatInt(p.Bytes, 10), terminal.Day(p.FlaggedAt), p.Key})
				}
				return terminal.Table(w, rows)
			})
		},
	})
}

func newGCStatus(a *app) *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "status",
		Short: "Describe the newest round",
		Long: `Describes the newest round: its number, its stage, when its objects were flagged,
and until when they can be taken back: the end of the round's grace period.
Stages are flagged, judged (being deleted) and closed.`,
		Args:                  takes(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := ask(a, cmd, (*client.Client).CollectStatus)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error {
				if err := printSkipped(w, s.Skipped); err != nil {
					return err
				}
				switch s.Stage {
				case gc.StageNone:
					return say(w, "there was no round yet")
				case gc.StageFlagged:
					return say(w, "round %d: flagged %s, can be undone until %s", s.Round, terminal.Day(s.FlaggedAt), terminal.Day(s.UndoUntil))
				case gc.StageJudged:
					return say(w, "round %d: judged; the next glide gc deletes the rest", s.Round)
				}
				return say(w, "round %d: %s", s.Round, s.Stage)
			})
		},
	})
}

func newUndelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "undelete KEY...",
		Short: "Take flagged objects back",
		Long: `Takes packs and commits back that are flagged, with a pin for each; glide gc plan
lists the keys. A pin keeps its object until glide host forget undelete drops all of
these pins. Boot lists cannot be taken back: they are only hints.`,
		Example:               "  glide gc undelete packs/65/65ea8a83081ed58bc32eacf3-0102030405060708090a0b0c",
		Args:                  takes(1, -1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := ask(a, cmd, func(c *client.Client, ctx context.Context) (bool, error) { return true, c.Undelete(ctx, args) })
			if err != nil {
				return err
			}
			return say(a.out, "took back %d objects; the next round keeps them", len(args))
		},
	}
}

// ask asks the daemon.
func ask[T any](a *app, cmd *cobra.Command, what func(*client.Client, context.Context) (T, error)) (out T, err error) {
	c, err := a.client()
	if err != nil {
		return out, err
	}
	return what(c, cmd.Context())
}
