package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/doctor"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/terminal"
)

func newDoctor(a *app) *cobra.Command {
	var given settingFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check host, store and data directory",
		Long: `Checks the host, the store and the data directory, and says what to fix. A running
daemon checks itself too. Without one, doctor tests what the daemon would need,
with the settings of glide serve. Exits 1 if something is wrong.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			checks, err := doctor.Run(cmd.Context(), c, version, given.values())
			if err != nil {
				return err
			}
			err = a.print(checks, func(w io.Writer) error { return printChecks(w, checks) })
			if err != nil {
				return err
			}
			bad := 0
			for _, c := range checks {
				if !c.OK {
					bad++
				}
			}
			if bad > 0 {
				return errs.New(errs.Internal, "%d of %d checks failed", bad, len(checks))
			}
			return nil
		},
	}
	var settings []config.Setting
	for _, s := range append([]config.Setting{config.File()}, config.Settings...) {
		if s.Name == "config" || s.Name == "data" || s.Name == "store" {
			settings = append(settings, s)
		}
	}
	given.declare(cmd.Flags(), settings...)
	return a.jsonFlag(cmd)
}

func printChecks(w io.Writer, checks []client.Check) error {
	var rows [][]string
	for _, c := range checks {
		state := "ok"
		if !c.OK {
			state = "WRONG"
		}
		rows = append(rows, []string{state, c.Name, c.Detail})
		if !c.OK && c.Fix != "" {
			rows = append(rows, []string{"", "", "→ " + c.Fix})
		}
	}
	return terminal.Table(w, rows)
}
