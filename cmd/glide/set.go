package main

import (
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/nearest"
	"github.com/paraglide/glide/internal/retention"
	"github.com/paraglide/glide/internal/size"
)

func newSet(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME KEY=VALUE...",
		Short: "Change a volume's settings",
		Long: `Changes settings of a volume:

  durability=local|continuous|sync   what an acknowledged flush means
  rpo=DURATION                       time of writes that continuous may lose
  iops=N                             requests per second but flushes, 0 for no limit
  bandwidth=SIZE                     bytes read and written per second, 0 for no limit
  dirty-budget=SIZE                  flush at this many unpublished bytes, 0 for the host's setting
  keep=SPAN:STEP,...                 of commits past the daemon's --retention, keep those of
                                     one epoch per STEP until SPAN; empty for none
  label.KEY=VALUE                    anything; an empty value removes the label`,
		Example:           "  glide set vm1 iops=5000 bandwidth=200M label.app=web\n  glide set vm1 keep=24h:1h,30d:1d",
		Args:              takes(2, -1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args[0]); err != nil {
				return err
			}
			settings, err := parseSettings(args[1:])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.Set(cmd.Context(), args[0], settings)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "%s is set", v.Name) })
		},
	}
	return a.jsonFlag(cmd)
}

// settable lists the keys besides labels. The functions check a value and return
// its canonical form.
var settable = map[string]func(value string) (string, error){
	"durability": func(v string) (string, error) {
		if v == "" {
			return "", usage("durability: choose local, continuous or sync")
		}
		return v, checkDurability(v)
	},
	"rpo": func(v string) (string, error) {
		d, err := positive("rpo", v)
		return d.String(), err
	},
	"iops": func(v string) (string, error) {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil {
			return "", usage("iops: %.60q is not a number", v)
		}
		return strconv.FormatUint(n, 10), nil
	},
	"keep": func(v string) (string, error) {
		_, err := retention.Parse(v)
		return v, err
	},
	"bandwidth":    sizeSetting,
	"dirty-budget": sizeSetting,
}

func sizeSetting(v string) (string, error) {
	n, err := size.Parse(v)
	return strconv.FormatUint(n, 10), err
}

func parseSettings(args []string) (client.Settings, error) {
	s := client.Settings{}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, usage("%.60q is not KEY=VALUE", arg)
		}
		if _, twice := s[key]; twice {
			return nil, usage("%s is set twice", key)
		}
		if label, ok := strings.CutPrefix(key, "label."); ok && label != "" {
			s[key] = value
			continue
		}
		check, ok := settable[key]
		if !ok {
			known := []string{"label.KEY"}
			for k := range settable {
				known = append(known, k)
			}
			return nil, usage("there is no setting %.60q%s", key, nearest.Hint(key, known))
		}
		text, err := check(value)
		if err != nil {
			return nil, err
		}
		s[key] = text
	}
	return s, nil
}
