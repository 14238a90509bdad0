// Package config declares the settings of `glide serve`, once, and reads them:
// from flags, environment variables, a TOML file and defaults, in that order of
// precedence.
package config

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/nearest"
	"github.com/paraglide/glide/internal/pack"
)

// Config is what serve runs with. Each field is one setting.
type Config struct {
	File        string // the file that settings were read from, if any
	Data        string // absolute
	Store       string // URL
	NBD         []api.Addr
	API         []api.Addr
	Advertise   string // "": the first API address, once it listens
	Memory      int64  // bytes
	Cache       host.Share
	WALLimit    host.Share
	DirtyBudget uint64 // bytes
	Compression pack.Compression
	PackBlocks  int
	Prefetch    bool
	Peers       bool
	Retention   time.Duration
	GC          bool          // run rounds of garbage collection
	GCInterval  time.Duration // between them
	ScrubDisk   uint64        // bytes a second that are checked in the background
	ScrubStore  uint64        // the same of the store
	GCGrace     time.Duration // between flag and deletion
	Keys        []keys.Provider
	SealedOnly  bool
	KeyTTL      time.Duration
	OnRevoke    string
	LogLevel    slog.Level
	LogFormat   string // text or json
	TokenFile   string
	Tokens      string // the file of hashed tokens
	HasTokens   bool   // the file was named, so that there may be tokens
	Users       string // file; "": none
	Audit       string // file; "": none
	LocalKey    string // provider of the key that seals the data directory; "": none
	TLS         string // off, allow or require
	TLSCert     string
	TLSKey      string
	TLSCA       string
	Prices      cost.Prices    // of the store
	PeersAllow  []netip.Prefix // networks beyond this machine to which the token may be sent
}

// Sources are where settings come from.
type Sources struct {
	Flags map[string][]string // the given ones, by name
	Env   []string            // as from os.Environ
	Root  bool                // whether the user is root
}

// ProcessSources returns this process's sources.
func ProcessSources(flags map[string][]string) Sources {
	return Sources{Flags: flags, Env: os.Environ(), Root: os.Geteuid() == 0}
}

// Load reads the settings and reports everything that is wrong with them.
func Load(src Sources) (*Config, error) {
	env := environment(src.Env)
	c := &Config{}
	values := map[string]value{}
	wrong := []error{checkEnv(env)}
	for _, s := range Settings {
		if s.Default != "" {
			values[s.Name] = value{"the default of " + s.Name, []string{s.Default}}
		}
	}
	values["data"] = value{"the default data directory", []string{defaultData(env, src.Root)}}

	file := env[fileSetting.Env()]
	if given := src.Flags[fileSetting.Name]; len(given) > 0 {
		file = given[len(given)-1]
	}
	if c.File = file; file != "" {
		fromFile, err := readFile(file)
		wrong = append(wrong, err)
		maps.Copy(values, fromFile)
	}
	for _, s := range Settings {
		if v, ok := env[s.Env()]; ok && v != "" {
			list := []string{v}
			if s.Many {
				list = strings.Split(v, ",")
			}
			values[s.Name] = value{"$" + s.Env(), list}
		}
		if v, ok := src.Flags[s.Name]; ok {
			values[s.Name] = value{"--" + s.Name, v}
		}
	}
	for _, s := range Settings {
		v, ok := values[s.Name]
		if !ok {
			continue
		}
		if err := s.set(c, v.list); err != nil {
			wrong = append(wrong, errs.New(errs.Invalid, "%s: %w", v.origin, err))
		}
	}
	if errors.Join(wrong...) == nil {
		wrong = append(wrong, c.finish()...)
	}
	return c, errors.Join(wrong...)
}

// ReadToken reads a token file. An empty path means no token.
func ReadToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", errs.New(errs.Invalid, "the token file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", errs.New(errs.Invalid, "the token file %s must hold one word", path)
	}
	return token, nil
}

// value is the value of a setting, and its origin.
type value struct {
	origin string
	list   []string
}

func environment(environ []string) map[string]string {
	m := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

// checkEnv finds misspelt variables. A variable that resembles no known one belongs
// to somebody else: orchestrators set GLIDE_SERVICE_HOST and the like.
func checkEnv(env map[string]string) error {
	known := []string{fileSetting.Env()}
	for _, s := range Settings {
		known = append(known, s.Env())
	}
	var wrong []error
	for _, k := range slices.Sorted(maps.Keys(env)) {
		name, ok := strings.CutPrefix(k, envPrefix)
		if !ok || slices.Contains(known, k) {
			continue
		}
		short := make([]string, len(known))
		for i, s := range known {
			short[i] = strings.TrimPrefix(s, envPrefix)
		}
		if w := nearest.Word(name, short); w != "" && len(name) > 3 {
			wrong = append(wrong, errs.New(errs.Invalid, "the variable %s is not known, did you mean %s?", k, envPrefix+w))
		}
	}
	return errors.Join(wrong...)
}

// defaultData is the default data directory.
func defaultData(env map[string]string, root bool) string {
	switch {
	case root:
		return "/var/lib/glide"
	case filepath.IsAbs(env["XDG_DATA_HOME"]):
		return filepath.Join(env["XDG_DATA_HOME"], "glide")
	case env["HOME"] != "":
		return filepath.Join(env["HOME"], ".local", "share", "glide")
	}
	return ""
}

// DefaultAPI is where a command looks for the daemon by default: the socket in the
// default data directory, or in $GLIDE_DATA.
func DefaultAPI(src Sources) string {
	env := environment(src.Env)
	dir := env[envPrefix+"DATA"]
	if dir == "" {
		dir = defaultData(env, src.Root)
	}
	return "unix:" + filepath.Join(dir, apiSocket)
}

// maxFile bounds a configuration file, in bytes: a device or a large file that was
// named by mistake must not be read to its end.
const maxFile = 1 << 20

// readFile reads the settings in a TOML file.
func readFile(path string) (map[string]value, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the configuration cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, errs.New(errs.Invalid, "the configuration cannot be read: %w", err)
	}
	if len(b) > maxFile {
		return nil, errs.New(errs.Invalid, "%s has more than %d bytes: that is not a configuration of glide", path, maxFile)
	}
	return parseFile(path, b)
}

// parseFile reads the settings in the text of a TOML file.
func parseFile(path string, b []byte) (map[string]value, error) {
	raw := map[string]any{}
	if _, err := toml.Decode(string(b), &raw); err != nil {
		return nil, errs.New(errs.Invalid, "%s: %w", path, err)
	}
	known := map[string]Setting{}
	for _, s := range Settings {
		known[s.Name] = s
	}
	values := map[string]value{}
	var wrong []error
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		s, ok := known[key]
		if !ok {
			wrong = append(wrong, errs.New(errs.Invalid, "%s: the key %.60q is not known, did you mean %q?", path, key, nearest.Closest(key, slices.Sorted(maps.Keys(known)))))
			continue
		}
		list, ok := texts(raw[key], s.Many)
		if !ok {
			what := "a string or a number"
			if s.Many {
				what = "a string or a list of strings"
			}
			wrong = append(wrong, errs.New(errs.Invalid, "%s: %s must be %s", path, key, what))
			continue
		}
		values[key] = value{path + ": " + key, list}
	}
	return values, errors.Join(wrong...)
}

// texts converts a TOML value to the values of a flag.
func texts(v any, many bool) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case int64:
		return []string{strconv.FormatInt(v, 10)}, !many
	case float64:
		return []string{strconv.FormatFloat(v, 'g', -1, 64)}, !many
	case []any:
		var list []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
		return list, many && len(list) > 0
	}
	return nil, false
}

const (
	apiSocket = "api.sock"
	nbdSocket = "nbd.sock"
)

// finish fills in defaults that depend on other settings, and checks combinations.
func (c *Config) finish() (wrong []error) {
	bad := func(format string, args ...any) {
		wrong = append(wrong, errs.New(errs.Invalid, format, args...))
	}
	if c.Store == "" {
		c.Store = (&url.URL{Scheme: "file", Path: filepath.Join(c.Data, "store")}).String()
	}
	for _, x := range []struct {
		flag, socket string
		list         *[]api.Addr
	}{{"nbd", nbdSocket, &c.NBD}, {"api", apiSocket, &c.API}} {
		if len(*x.list) > 0 {
			continue
		}
		a, err := api.ParseAddr("unix:" + filepath.Join(c.Data, x.socket))
		if err != nil {
			bad("the default of --%s: %w", x.flag, err)
			continue
		}
		*x.list = []api.Addr{a}
	}
	c.HasTokens = c.Tokens != ""
	for _, a := range c.API {
		if err := c.Guarded(a); err != nil {
			wrong = append(wrong, err)
		}
	}
	if !c.HasTokens {
		c.Tokens = filepath.Join(c.Data, "tokens")
	}
	if c.TLS != "off" && (c.TLSCert == "" || c.TLSKey == "") {
		bad("--tls %s needs --tls-cert and --tls-key", c.TLS)
	}
	if c.TLS == "off" && c.TLSCert+c.TLSKey+c.TLSCA != "" {
		bad("a certificate is of no use with --tls off: say --tls allow or --tls require")
	}
	if err := (pack.Limits{Blocks: c.PackBlocks}).Validate(); err != nil {
		bad("--pack-blocks %d: %w", c.PackBlocks, err)
	}
	return wrong
}

// Guarded is an error if other machines can reach an address of the API, and nothing is named
// by which to tell who asks.
func (c *Config) Guarded(a api.Addr) error {
	if a.Local() || c.TokenFile != "" || c.HasTokens || c.TLS != "off" && c.TLSCA != "" {
		return nil
	}
	return errs.New(errs.Invalid, "the API at %s can be reached from other machines: it needs --token-file, --tokens or --tls-ca", a)
}
