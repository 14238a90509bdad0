package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/server"
)

func newServe(a *app) *cobra.Command {
	var given settingFlags
	cmd := &cobra.Command{
		Use:   "serve [--data DIR] [--store URL] [--nbd ADDR]... [--api ADDR]... [--config FILE] [SETTINGS]",
		Short: "Run the daemon of this host",
		Long: `Serves this host's volumes over NBD, and the API that the other commands use.

No setting is required. Each is a flag, a key of the same name in a TOML file
(--config), and an environment variable: --wal-limit, wal-limit, and
$GLIDE_WAL_LIMIT. A flag overrides a variable, and a variable overrides the file.

When the daemon is ready it prints one line that begins with "glide: ready".
SIGTERM finishes requests, syncs and exits 0; a second signal ends the daemon at
once. Flushed data is safe in both cases. Tokens, certificates, credentials of the
store and the log level are read again when their files change, and on SIGHUP.`,
		Example: `  glide serve
  glide serve --data /srv/glide --store 's3://vms?region=eu-central-1' --api tcp:10.0.0.5:7070 --token-file /etc/glide.token`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (*config.Config, error) { return config.Load(config.ProcessSources(given.values())) }
			c, err := load()
			if err != nil {
				return err
			}
			return server.Run(cmd.Context(), c, server.Options{Version: version, Load: load, Out: a.out, Log: a.err})
		},
	}
	given.declare(cmd.Flags(), append([]config.Setting{config.File()}, config.Settings...)...)
	return cmd
}

// settingFlags are settings as flags. Their values are kept as text, which the
// settings parse.
type settingFlags struct{ list []*settingFlag }

type settingFlag struct {
	setting config.Setting
	given   []string
}

// Set implements pflag.Value.
func (f *settingFlag) Set(s string) error { f.given = append(f.given, s); return nil }

// String implements pflag.Value.
func (f *settingFlag) String() string { return "" }

// Type implements pflag.Value: the name of the value in help.
func (f *settingFlag) Type() string { return f.setting.Arg }

func (s *settingFlags) declare(flags *pflag.FlagSet, settings ...config.Setting) {
	for _, setting := range settings {
		f := &settingFlag{setting: setting}
		s.list = append(s.list, f)
		text := setting.Usage
		if setting.Many {
			text += ", may be repeated"
		}
		if d := setting.Default + setting.DefaultText; d != "" && d != "none" {
			text += " (default " + d + ")"
		}
		flags.Var(f, setting.Name, text)
	}
}

// values returns the flags that were given.
func (s *settingFlags) values() map[string][]string {
	m := map[string][]string{}
	for _, f := range s.list {
		if f.given != nil {
			m[f.setting.Name] = f.given
		}
	}
	return m
}
