package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/terminal"
)

func newHosts(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hosts",
		Short: "List the hosts of the store",
		Long: `Lists the hosts that the store knows: those that hold volumes, those with pins, and
those for which states are kept. Such a state is the one that a host had of a
volume when another host took it over; the old host's forks and rescue volume need
it.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			hosts, err := c.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(hosts, func(w io.Writer) error {
				rows := [][]string{{"HOST", "VOLUMES", "KEPT", "PINS", "LAST COMMIT", "ADDRESS"}}
				for _, h := range hosts {
					id, last := h.ID, "-"
					if h.Self {
						id += " (this one)"
					}
					if h.Twin {
						id += " AND ANOTHER DAEMON with its identity: glide doctor"
					}
					if !h.LastCommit.IsZero() {
						last = h.LastCommit.Format(time.RFC3339)
					}
					rows = append(rows, []string{id, strconv.Itoa(h.Volumes), strconv.Itoa(h.Kept), strconv.Itoa(h.Pins), last, strings.Join(h.Addresses, ",")})
				}
				return terminal.Table(w, rows)
			})
		},
	}
	return a.jsonFlag(cmd)
}

func newHost(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Forget a dead host",
		Long:  "Commands for one host of the store; glide hosts lists the hosts.",
		Args:  takes(0, 0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newForget(a))
	return cmd
}

func newForget(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "forget HOST",
		Short: "Release what the store keeps for a host that will not come back",
		Long: `Releases what the store keeps for a host that will never come back: its pins, and
the states of volumes that were taken over from it. If the host does come back, its
forks and rescue volumes of those volumes may have lost their base. A host that
answers is not forgotten (exit 3) without --force. Volumes that it still holds
stay: glide wake --force takes them over.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			f, err := c.ForgetHost(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			return a.print(f, func(w io.Writer) error {
				if err := say(w, "forgot host %s: %d pins dropped, %d volumes keep nothing for it any more", f.Host, f.Pins, len(f.Volumes)); err != nil {
					return err
				}
				for _, left := range f.Left {
					if err := say(w, "forget it there too: %s", left); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "forget a host that answers")
	return a.jsonFlag(cmd)
}

// followFor is how long one request for events waits for the next one.
const followFor = 30 * time.Second

func newEvents(a *app) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List events of this host",
		Long: `Lists what happened on the daemon's host since the daemon started: volumes fenced,
taken over or failed, the store failing and coming back, full disks. --follow
continues with new events; with --json it prints one document per line.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			events, err := c.Events(cmd.Context(), 0, 0)
			if err != nil {
				return err
			}
			if !follow {
				return a.print(events, func(w io.Writer) error { return printEvents(w, events) })
			}
			var last uint64
			for {
				if err := a.printLines(events); err != nil {
					return err
				}
				if n := len(events); n > 0 {
					last = events[n-1].Sequence
				}
				if events, err = c.Events(cmd.Context(), last, followFor); err != nil {
					if cmd.Context().Err() != nil {
						return nil // the user interrupted it
					}
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "continue with new events")
	return a.jsonFlag(cmd)
}

// printLines prints each event on a line of its own.
func (a *app) printLines(events []client.Event) error {
	if !a.json {
		return printEvents(a.out, events)
	}
	enc := json.NewEncoder(a.out)
	for _, e := range events {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

func printEvents(w io.Writer, events []client.Event) error {
	for _, e := range events {
		if _, err := fmt.Fprintln(w, e.Line()); err != nil {
			return err
		}
	}
	return nil
}
