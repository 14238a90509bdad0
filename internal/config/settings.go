package config

import (
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/size"
)

// Setting is one setting of serve: a flag, a key of the TOML file of the same
// name, and an environment variable.
type Setting struct {
	Name    string
	Arg     string // the form of a value, for people
	Usage   string
	Default string // as it would be written; "" if it depends on others or there is none
	// DefaultText describes the default if Default cannot.
	DefaultText string
	Many        bool // may be given more than once; a comma separates values in the environment
	set         func(c *Config, values []string) error
}

const envPrefix = "GLIDE_"

// Env is the setting's environment variable.
func (s Setting) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// fileSetting names the file with the others. It has no key in the file itself.
var fileSetting = Setting{Name: "config", Arg: "FILE", Usage: "read settings from this TOML file"}

// File returns the setting that names the file with the others.
func File() Setting { return fileSetting }

// Settings declares every setting that a file can have.
var Settings = []Setting{
	{
		Name: "data", Arg: "DIR", Usage: "data directory of this host, for one daemon", DefaultText: "/var/lib/glide for root, else $XDG_DATA_HOME/glide",
		set: one(func(c *Config, v string) (err error) {
			if v == "" {
				return errors.New("neither $XDG_DATA_HOME nor $HOME is set: name the directory")
			}
			c.Data, err = filepath.Abs(v)
			return err
		}),
	},
	{
		Name: "store", Arg: "URL", Usage: "object store: file:///DIR or s3://BUCKET[/PREFIX][?endpoint=URL&region=R&…]", DefaultText: "file://DATA/store",
		set: text(func(c *Config) *string { return &c.Store }),
	},
	{
		Name: "nbd", Arg: "ADDR", Usage: "serve NBD at unix:PATH[?tenant=T[&volume=V]] or tcp:HOST:PORT", DefaultText: "unix:DATA/nbd.sock", Many: true,
		set: addresses(func(c *Config) *[]api.Addr { return &c.NBD }),
	},
	{
		Name: "api", Arg: "ADDR", Usage: "serve the API at unix:PATH[?tenant=T[&volume=V]] or tcp:HOST:PORT", DefaultText: "unix:DATA/api.sock", Many: true,
		set: addresses(func(c *Config) *[]api.Addr { return &c.API }),
	},
	{
		Name: "advertise", Arg: "ADDR", Usage: "API address that this host gives to other hosts", DefaultText: "the first --api",
		set: one(func(c *Config, v string) error {
			a, err := api.ParseAddr(v)
			if err == nil && a.Network == "tcp" {
				if _, port, _ := net.SplitHostPort(a.Address); a.Any() || port == "0" {
					err = errors.New("other hosts cannot connect to " + v)
				}
			}
			c.Advertise = a.String()
			return err
		}),
	},
	{
		Name: "memory", Arg: "SIZE", Usage: "memory for published blocks that the SSD tier has no room for", Default: "256M",
		set: one(func(c *Config, v string) (err error) { c.Memory, err = amount(v); return err }),
	},
	{
		Name: "cache", Arg: "SIZE|SHARE", Usage: "disk for cached blocks, bytes or percent of the disk", Default: "80%",
		set: one(func(c *Config, v string) (err error) { c.Cache, err = share(v); return err }),
	},
	{
		Name: "wal-limit", Arg: "SIZE|SHARE", Usage: "disk for the log, bytes or percent of the disk", Default: "80%",
		set: one(func(c *Config, v string) (err error) { c.WALLimit, err = share(v); return err }),
	},
	{
		Name: "dirty-budget", Arg: "SIZE", Usage: "unpublished bytes at which a volume is flushed", Default: "5G",
		set: one(func(c *Config, v string) error {
			n, err := amount(v)
			c.DirtyBudget = uint64(n)
			return err
		}),
	},
	{
		Name: "compression", Arg: "zstd|s2|none", Usage: "how blocks are compressed in the store", Default: "zstd",
		set: one(func(c *Config, v string) (err error) { c.Compression, err = pack.ParseCompression(v); return err }),
	},
	{
		Name: "pack-blocks", Arg: "N", Usage: "blocks in one object of the store", Default: "25",
		set: one(func(c *Config, v string) (err error) {
			if c.PackBlocks, err = strconv.Atoi(v); err != nil || c.PackBlocks < 1 {
				return errors.New(quote(v) + " is not a number above 0")
			}
			return nil
		}),
	},
	{
		Name: "prefetch", Arg: "on|off", Usage: "fetch blocks before a guest asks for them: what boots read, and what lies next", Default: "on",
		set: onOff(func(c *Config) *bool { return &c.Prefetch }),
	},
	{
		Name: "peers", Arg: "on|off", Usage: "fetch blocks from the SSDs of other hosts before the store, and let them do the same", Default: "off",
		set: onOff(func(c *Config) *bool { return &c.Peers }),
	},
	{
		Name: "retention", Arg: "DURATION", Usage: "how long commits are kept for forks of the past", Default: "72h",
		set: positive(func(c *Config) *time.Duration { return &c.Retention }, "72h"),
	},
	{
		Name: "gc", Arg: "on|off", Usage: "collect garbage in the store without being asked; one host of a store at a time does", Default: "on",
		set: onOff(func(c *Config) *bool { return &c.GC }),
	},
	{
		Name: "gc-interval", Arg: "DURATION", Usage: "time between rounds, if something was published or removed", Default: "1h",
		set: positive(func(c *Config) *time.Duration { return &c.GCInterval }, "1h"),
	},
	{
		Name: "key", Arg: "PROVIDER", Usage: "open the keys of sealed tenants with file:PATH, env:NAME, credential:NAME, passphrase:file=PATH, age:identity=PATH, kms:ARN or vault:URL", DefaultText: "none: sealed tenants are locked", Many: true,
		set: func(c *Config, values []string) (err error) {
			c.Keys, err = keys.ParseAll(values)
			return err
		},
	},
	{
		Name: "key-ttl", Arg: "DURATION|off", Usage: "ask the providers again for the keys of open tenants after this time", Default: "off",
		set: one(func(c *Config, v string) error {
			if c.KeyTTL = 0; v == "off" {
				return nil
			}
			d, err := time.ParseDuration(v)
			if c.KeyTTL = d; err != nil || d < time.Minute {
				return errors.New("it must be off, or at least 1m, such as 1h")
			}
			return nil
		}),
	},
	{
		Name: "on-revoke", Arg: "refuse|stop", Usage: "what becomes of the guests of a tenant whose keys are denied then: refuse new ones, or stop all", Default: host.RevokeRefuse,
		set: one(func(c *Config, v string) error {
			if c.OnRevoke = v; v != host.RevokeRefuse && v != host.RevokeStop {
				return errors.New("it must be refuse or stop")
			}
			return nil
		}),
	},
	{
		Name: "sealed-only", Arg: "on|off", Usage: "serve sealed tenants only, and store nothing in clear", Default: "off",
		set: onOff(func(c *Config) *bool { return &c.SealedOnly }),
	},
	{
		Name: "gc-grace", Arg: "DURATION", Usage: "how long garbage can be taken back before it is deleted", Default: "24h",
		set: positive(func(c *Config) *time.Duration { return &c.GCGrace }, "24h"),
	},
	{
		Name: "scrub-rate", Arg: "DISK[,STORE]", Usage: "bytes a second to check in the background, of this host's disk and of what its volumes have in the store; 0: none", Default: "4M",
		set: one(func(c *Config, v string) error {
			disk, store, both := strings.Cut(v, ",")
			var err1, err2 error
			c.ScrubDisk, err1 = size.Parse(disk)
			if c.ScrubStore = 0; both {
				c.ScrubStore, err2 = size.Parse(store)
			}
			if err1 != nil || err2 != nil {
				return errors.New(quote(v) + " is not a rate: give bytes a second of the disk, and of the store if it is to be checked, such as 4M or 4M,1M")
			}
			return nil
		}),
	},
	{
		Name: "log-level", Arg: "debug|info|warn|error", Usage: "least level of messages that are logged, to standard error", Default: "info",
		set: one(func(c *Config, v string) error {
			levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
			level, ok := levels[v]
			if c.LogLevel = level; !ok {
				return errors.New(quote(v) + " is neither debug, info, warn nor error")
			}
			return nil
		}),
	},
	{
		Name: "log-format", Arg: "text|json", Usage: "format of the log", Default: "text",
		set: choice(func(c *Config) *string { return &c.LogFormat }, "text", "json"),
	},
	{
		Name: "token-file", Arg: "FILE", Usage: "file with the token that the API requires over TCP", DefaultText: "none",
		set: text(func(c *Config) *string { return &c.TokenFile }),
	},
	{
		Name: "tokens", Arg: "FILE", Usage: "file of hashed tokens that the API and NBD accept: see glide token", DefaultText: "DATA/tokens",
		set: text(func(c *Config) *string { return &c.Tokens }),
	},
	{
		Name: "users", Arg: "FILE", Usage: "file of the users of this machine, with what each may do at the host's own sockets; without it who may open these may do everything", DefaultText: "none",
		set: text(func(c *Config) *string { return &c.Users }),
	},
	{
		Name: "audit", Arg: "FILE", Usage: "write who did what, and what was refused, to this file: JSON lines, each with the hash of the one before", DefaultText: "none",
		set: text(func(c *Config) *string { return &c.Audit }),
	},
	{
		Name: "local-key", Arg: "PROVIDER", Usage: "seal the log, the SSD tier and the metadata in the data directory with a key of this host: file:PATH, env:NAME, credential:NAME, passphrase:file=PATH, age:identity=PATH, kms:ARN or vault:URL", DefaultText: "none",
		set: one(func(c *Config, v string) error {
			c.LocalKey = v
			_, err := keys.Parse(v)
			return err
		}),
	},
	{
		Name: "tls", Arg: "off|allow|require", Usage: "TLS for NBD, and for the API over TCP", Default: "off",
		set: choice(func(c *Config) *string { return &c.TLS }, "off", "allow", "require"),
	},
	{
		Name: "tls-cert", Arg: "FILE", Usage: "certificate of this host, PEM", DefaultText: "none",
		set: text(func(c *Config) *string { return &c.TLSCert }),
	},
	{
		Name: "tls-key", Arg: "FILE", Usage: "key of that certificate, PEM", DefaultText: "none",
		set: text(func(c *Config) *string { return &c.TLSKey }),
	},
	{
		Name: "tls-ca", Arg: "FILE", Usage: "authority of clients and other hosts, PEM: clients of NBD must have a certificate of it, those of the API may have one, and hosts speak TLS with each other", DefaultText: "none",
		set: text(func(c *Config) *string { return &c.TLSCA }),
	},
	{
		Name: "peers-allow", Arg: "CIDR", Usage: "network of other hosts to which this one may send its token; with --tls-ca it sends none", DefaultText: "this machine only", Many: true,
		set: func(c *Config, values []string) (err error) { c.PeersAllow, err = prefixes(values); return err },
	},
	{
		Name: "price-put", Arg: "PRICE", Usage: "price of 1,000 PUT requests, for glide cost", DefaultText: "0",
		set: price(func(c *Config) *float64 { return &c.Prices.Put }),
	},
	{
		Name: "price-get", Arg: "PRICE", Usage: "price of 1,000 GET or HEAD requests", DefaultText: "0",
		set: price(func(c *Config) *float64 { return &c.Prices.Get }),
	},
	{
		Name: "price-list", Arg: "PRICE", Usage: "price of 1,000 LIST requests", DefaultText: "that of PUT",
		set: one(func(c *Config, v string) (err error) {
			c.Prices.List, err = parsePrice(v)
			c.Prices.HasList = true
			return err
		}),
	},
	{
		Name: "price-delete", Arg: "PRICE", Usage: "price of 1,000 DELETE requests", DefaultText: "0",
		set: price(func(c *Config) *float64 { return &c.Prices.Delete }),
	},
	{
		Name: "price-stored", Arg: "PRICE", Usage: "price of a GB (10⁹ bytes) stored for a month", DefaultText: "0",
		set: price(func(c *Config) *float64 { return &c.Prices.Stored }),
	},
	{
		Name: "price-up", Arg: "PRICE", Usage: "price of a GB sent to the store", DefaultText: "0",
		set: price(func(c *Config) *float64 { return &c.Prices.Up }),
	},
	{
		Name: "price-down", Arg: "PRICE", Usage: "price of a GB received from the store", DefaultText: "0",
		set: price(func(c *Config) *float64 { return &c.Prices.Down }),
	},
}

// prefixes parses networks or single addresses, separated by commas.
func prefixes(values []string) (list []netip.Prefix, err error) {
	for _, v := range strings.Split(strings.Join(values, ","), ",") {
		v = strings.TrimSpace(v)
		p, err := netip.ParsePrefix(v)
		if addr, aerr := netip.ParseAddr(v); err != nil && aerr == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if err != nil || p != p.Masked() {
			return nil, errors.New(quote(v) + " is not a network, such as 10.0.0.0/8")
		}
		list = append(list, p)
	}
	return list, nil
}

// maxPrice is the largest price, in any currency: more is a mistake.
const maxPrice = 1e6

// parsePrice parses a price.
func parsePrice(v string) (float64, error) {
	p, err := strconv.ParseFloat(v, 64)
	if err != nil || !(p >= 0 && p <= maxPrice) { // NaN is neither
		return 0, errors.New(quote(v) + " is not a price: it is a number from 0 to a million, such as 0.005")
	}
	return p, nil
}

func price(field func(*Config) *float64) func(*Config, []string) error {
	return one(func(c *Config, v string) (err error) { *field(c), err = parsePrice(v); return err })
}

// one is a setting whose last value counts.
func one(set func(c *Config, v string) error) func(*Config, []string) error {
	return func(c *Config, values []string) error { return set(c, values[len(values)-1]) }
}

func text(field func(*Config) *string) func(*Config, []string) error {
	return one(func(c *Config, v string) error { *field(c) = v; return nil })
}

func choice(field func(*Config) *string, known ...string) func(*Config, []string) error {
	return one(func(c *Config, v string) error {
		if *field(c) = v; !slices.Contains(known, v) {
			return errors.New(quote(v) + " is not one of " + strings.Join(known, ", "))
		}
		return nil
	})
}

func addresses(field func(*Config) *[]api.Addr) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		list := make([]api.Addr, len(values))
		for i, v := range values {
			a, err := api.ParseAddr(strings.TrimSpace(v))
			if err != nil {
				return err
			}
			if a.Network == "unix" {
				if a.Address, err = filepath.Abs(a.Address); err != nil {
					return err
				}
				if a, err = api.ParseAddr(a.String()); err != nil {
					return err
				}
			}
			if list[i] = a; slices.Contains(list[:i], a) {
				return errors.New(a.String() + " is given twice")
			}
		}
		*field(c) = list
		return nil
	}
}

// amount is a number of bytes above 0.
func amount(v string) (int64, error) {
	n, err := size.Parse(v)
	if err != nil {
		return 0, err
	}
	if n == 0 || n > math.MaxInt64 {
		return 0, errors.New(quote(v) + " is not a size above 0")
	}
	return int64(n), nil
}

// share is a number of bytes, or a percentage of the disk.
func share(v string) (host.Share, error) {
	if percent, ok := strings.CutSuffix(v, "%"); ok {
		n, err := strconv.Atoi(percent)
		if err != nil || n < 1 || n > 100 {
			return host.Share{}, errors.New(quote(v) + " is not a share of the disk: choose 1% to 100%")
		}
		return host.Share{Percent: n}, nil
	}
	n, err := amount(v)
	return host.Share{Bytes: n}, err
}

func quote(s string) string {
	if len(s) > 60 {
		s = s[:57] + "..."
	}
	return strconv.Quote(s)
}

// onOff sets a switch.
// positive is a duration above 0.
func positive(field func(*Config) *time.Duration, example string) func(*Config, []string) error {
	return one(func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return errors.New(quote(v) + " is not a duration above 0, such as " + example)
		}
		*field(c) = d
		return nil
	})
}

func onOff(field func(*Config) *bool) func(*Config, []string) error {
	return one(func(c *Config, v string) error {
		if v != "on" && v != "off" {
			return errors.New(quote(v) + " is not on or off")
		}
		*field(c) = v == "on"
		return nil
	})
}
