package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/pack"
)

func tomlFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "glide.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, src Sources) *Config {
	t.Helper()
	c, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := load(t, Sources{Root: true})
	if c.Data != "/var/lib/glide" || c.Store != "file:///var/lib/glide/store" || fmt.Sprint(c.NBD, c.API) != "[unix:/var/lib/glide/nbd.sock] [unix:/var/lib/glide/api.sock]" {
		t.Errorf("%+v", c)
	}
	if c.Memory != 256<<20 || c.Cache != (host.Share{Percent: 80}) || c.WALLimit != c.Cache || c.DirtyBudget != 5<<30 || c.Compression != pack.CompressionZstd ||
		c.PackBlocks != pack.DefaultBlocks || c.Retention != 72*time.Hour || !c.GC || c.GCInterval != time.Hour || c.GCGrace != 24*time.Hour || c.LogLevel != slog.LevelInfo || c.LogFormat != "text" || c.TLS != "off" {
		t.Errorf("%+v", c)
	}
	for env, want := range map[string]string{
		"XDG_DATA_HOME=/x y": "/x y/glide", "HOME=/home/me": "/home/me/.local/share/glide", "GLIDE_DATA=/d": "/d",
	} {
		c := load(t, Sources{Env: []string{env}})
		if c.Data != want {
			t.Errorf("%s: data directory %s, want %s", env, c.Data, want)
		}
		if got := DefaultAPI(Sources{Env: []string{env}}); got != c.API[0].String() {
			t.Errorf("%s: a command asks %s, the daemon is at %s", env, got, c.API[0])
		}
	}
	if c := load(t, Sources{Env: []string{"XDG_DATA_HOME=/x y"}}); c.Store != "file:///x%20y/glide/store" {
		t.Errorf("store %s", c.Store)
	}
	if _, err := Load(Sources{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("no home: %v", err)
	}
	if _, err := Load(Sources{Env: []string{"HOME=/" + strings.Repeat("h", 100)}}); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "107") {
		t.Errorf("a long home: %v", err)
	}
}

// TestPrecedence sets every setting in every place: flag before environment
// before file before default.
func TestPrecedence(t *testing.T) {
	samples := map[string][3]string{ // in the file, the environment, the flag
		"data": {"/f", "/e", "/a"}, "store": {"file:///f", "file:///e", "s3://a"},
		"nbd": {"unix:/f", "unix:/e", "unix:/a"}, "api": {"unix:/f", "unix:/e", "unix:/a"},
		"advertise": {"tcp:f:1", "tcp:e:1", "tcp:a:1"}, "memory": {"1M", "2M", "3M"}, "cache": {"10%", "20%", "3G"}, "wal-limit": {"1G", "2G", "30%"},
		"dirty-budget": {"1G", "2G", "3G"}, "compression": {"s2", "none", "zstd"}, "pack-blocks": {"1", "2", "3"}, "prefetch": {"off", "on", "off"}, "peers": {"on", "off", "on"}, "retention": {"1h", "2h", "3h"}, "gc": {"off", "on", "off"}, "gc-interval": {"1h", "2h", "3h"}, "gc-grace": {"1h", "2h", "3h"}, "key": {"env:A", "env:B", "env:C"}, "sealed-only": {"on", "off", "on"}, "key-ttl": {"1h", "2h", "off"}, "on-revoke": {"stop", "refuse", "stop"},
		"scrub-rate": {"1M", "2M,3M", "0,1M"},
		"log-level":  {"debug", "warn", "error"}, "log-format": {"json", "text", "json"}, "token-file": {"f", "e", "a"}, "tokens": {"f", "e", "a"}, "audit": {"f", "e", "a"}, "users": {"f", "e", "a"}, "local-key": {"file:f", "env:e", "credential:a"},
		"tls": {"allow", "require", "allow"}, "tls-cert": {"f", "e", "a"}, "tls-key": {"f", "e", "a"}, "tls-ca": {"f", "e", "a"},
		"peers-allow": {"10.0.0.0/8", "fd00::/8", "192.0.2.1"},
		"price-put":   {"0.005", "1", "2e-3"}, "price-get": {"0.1", "0.2", "0.3"}, "price-list": {"0.1", "0", "0.3"}, "price-delete": {"0.1", "0.2", "0.3"},
		"price-stored": {"0.023", "0.2", "0.3"}, "price-up": {"0.1", "0.2", "0.3"}, "price-down": {"0.1", "0.2", "0.3"},
	}
	for _, s := range Settings {
		v, ok := samples[s.Name]
		if !ok {
			t.Errorf("no samples for %s", s.Name)
			continue
		}
		text := fmt.Sprintf("%s = %q\n", s.Name, v[0])
		base := Sources{Root: true, Flags: map[string][]string{}}
		if strings.HasPrefix(s.Name, "tls-") {
			base.Flags["tls"], base.Flags["tls-cert"], base.Flags["tls-key"] = []string{"allow"}, []string{"c"}, []string{"k"}
			delete(base.Flags, s.Name)
		} else if s.Name == "tls" {
			base.Flags["tls-cert"], base.Flags["tls-key"] = []string{"c"}, []string{"k"}
		}
		want := func(from string, c *Config, value string) {
			t.Helper()
			w := *c
			if err := s.set(&w, []string{value}); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%+v", w) != fmt.Sprintf("%+v", *c) {
				t.Errorf("%s from the %s: %+v", s.Name, from, c)
			}
		}
		base.Env = []string{fileSetting.Env() + "=" + tomlFile(t, text)}
		want("file", load(t, base), v[0])
		base.Env = append(base.Env, s.Env()+"="+v[1])
		want("environment", load(t, base), v[1])
		base.Flags[s.Name] = []string{"unix:/x", v[2]}
		if !s.Many {
			want("flag", load(t, base), v[2])
		} else {
			base.Flags[s.Name] = []string{v[2]}
			want("flag", load(t, base), v[2])
		}
	}
}

func TestMany(t *testing.T) {
	c := load(t, Sources{
		Root:  true,
		Env:   []string{"GLIDE_NBD=unix:/a,tcp:127.0.0.1:1", "GLIDE_CONTEXT=lab"}, // the latter is for other commands
		Flags: map[string][]string{"api": {"unix:/c", "tcp:localhost:2"}, "config": {tomlFile(t, `advertise = "tcp:h:1"`)}},
	})
	if fmt.Sprint(c.NBD, c.API, " ", c.Advertise) != "[unix:/a tcp:127.0.0.1:1] [unix:/c tcp:localhost:2] tcp:h:1" {
		t.Errorf("%+v", c)
	}
	c = load(t, Sources{Root: true, Flags: map[string][]string{"config": {tomlFile(t, "nbd = [\"unix:/a\", \"unix:/b\"]\npack-blocks = 7\nmemory = 1048576")}}})
	if fmt.Sprint(c.NBD) != "[unix:/a unix:/b]" || c.PackBlocks != 7 || c.Memory != 1<<20 {
		t.Errorf("%+v", c)
	}
	c = load(t, Sources{Root: true, Flags: map[string][]string{"nbd": {"unix:rel.sock"}, "data": {"here"}}})
	if cwd, _ := os.Getwd(); c.NBD[0].Address != filepath.Join(cwd, "rel.sock") || c.Data != filepath.Join(cwd, "here") {
		t.Errorf("relative paths: %+v", c)
	}
}

func TestBad(t *testing.T) {
	for name, c := range map[string]struct {
		flags map[string][]string
		env   string
		file  string
		words string
	}{
		"unknown key":       {file: "wal-limt = \"1G\"", words: `the key "wal-limt" is not known, did you mean "wal-limit"?`},
		"underscores":       {file: "wal_limit = \"1G\"", words: `did you mean "wal-limit"?`},
		"a table":           {file: "[tls]\ncert = \"x\"", words: "tls must be a string"},
		"a boolean":         {file: "tls = true", words: "tls must be a string"},
		"a list":            {file: "memory = [\"1G\"]", words: "memory must be a string"},
		"a list of numbers": {file: "nbd = [1]", words: "nbd must be a string or a list of strings"},
		"a negative price":  {file: "price-put = -1", words: `"-1" is not a price`},
		"a price of NaN":    {file: "price-get = nan", words: `"NaN" is not a price`},
		"an endless price":  {flags: map[string][]string{"price-up": {"inf"}}, words: `"inf" is not a price`},
		"an absurd price":   {env: "GLIDE_PRICE_DOWN=1e9", words: `"1e9" is not a price`},
		"a price in words":  {env: "GLIDE_PRICE_LIST=cheap", words: `"cheap" is not a price`},
		"unlike any":        {file: "cache_size = \"1G\"", words: `the key "cache_size" is not known, did you mean "cache"?`},
		"config in itself":  {file: "config = \"x\"", words: "not known"},
		"no TOML":           {file: "memory 1G", words: "glide.toml: toml: line 1"},
		"no such file":      {flags: map[string][]string{"config": {"/proc/none/glide.toml"}}, words: "/proc/none/glide.toml"},
		"misspelt variable": {env: "GLIDE_WAL_LIMT=1G", words: "did you mean GLIDE_WAL_LIMIT?"},
		"bad variable":      {env: "GLIDE_MEMORY=lots", words: "$GLIDE_MEMORY"},
		"bad key":           {file: "cache = \"101%\"", words: "glide.toml: cache: \"101%\" is not a share"},
		"memory 0":          {flags: map[string][]string{"memory": {"0"}}, words: "--memory: \"0\" is not a size above 0"},
		"share 0":           {flags: map[string][]string{"cache": {"0%"}}, words: "1% to 100%"},
		"negative":          {flags: map[string][]string{"wal-limit": {"-1G"}}, words: "negative"},
		"pack-blocks 0":     {flags: map[string][]string{"pack-blocks": {"0"}}, words: "--pack-blocks"},
		"pack-blocks large": {flags: map[string][]string{"pack-blocks": {"1000000"}}, words: "--pack-blocks"},
		"gc":                {flags: map[string][]string{"gc": {"maybe"}}, words: "not on or off"},
		"gc-interval":       {flags: map[string][]string{"gc-interval": {"0s"}}, words: "above 0, such as 1h"},
		"gc-grace":          {flags: map[string][]string{"gc-grace": {"-1h"}}, words: "above 0, such as 24h"},
		"scrub-rate":        {flags: map[string][]string{"scrub-rate": {"fast"}}, words: "--scrub-rate"},
		"two scrub rates":   {flags: map[string][]string{"scrub-rate": {"1M,"}}, words: "4M or 4M,1M"},
		"retention":         {flags: map[string][]string{"retention": {"3d"}}, words: "not a duration"},
		"prefetch":          {flags: map[string][]string{"prefetch": {"yes"}}, words: "on or off"},
		"peers":             {flags: map[string][]string{"peers": {"yes"}}, words: "on or off"},
		"compression":       {flags: map[string][]string{"compression": {"lz4"}}, words: "zstd, s2 and none"},
		"log level":         {flags: map[string][]string{"log-level": {"loud"}}, words: "debug, info, warn"},
		"log format":        {flags: map[string][]string{"log-format": {"xml"}}, words: "text, json"},
		"nbd address":       {flags: map[string][]string{"nbd": {"/run/nbd.sock"}}, words: "--nbd: the address"},
		"twice":             {flags: map[string][]string{"nbd": {"unix:/a", "unix:/a"}}, words: "twice"},
		"socket path":       {flags: map[string][]string{"nbd": {"unix:/" + strings.Repeat("a", 107)}}, words: "at most 107"},
		"data path":         {flags: map[string][]string{"data": {"/" + strings.Repeat("a", 107)}}, words: "at most 107"},
		"open API":          {flags: map[string][]string{"api": {"tcp:0.0.0.0:1"}}, words: "--token-file"},
		"advertise":         {flags: map[string][]string{"advertise": {"tcp::1"}}, words: "cannot connect"},
		"TLS, no key":       {flags: map[string][]string{"tls": {"require"}, "tls-cert": {"x"}}, words: "--tls-key"},
		"key, no TLS":       {flags: map[string][]string{"tls-key": {"x"}}, words: "--tls off"},
		"TLS mode":          {flags: map[string][]string{"tls": {"on"}}, words: "off, allow, require"},
	} {
		src := Sources{Root: true, Flags: map[string][]string{}, Env: []string{c.env}}
		if c.file != "" {
			src.Flags["config"] = []string{tomlFile(t, c.file)}
		}
		for k, v := range c.flags {
			src.Flags[k] = v
		}
		_, err := Load(src)
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want …%s…", name, err, c.words)
		}
	}
	// All that is wrong is told at once.
	_, err := Load(Sources{Root: true, Flags: map[string][]string{"memory": {"x"}, "tls": {"y"}, "config": {tomlFile(t, "zzz = 1")}}})
	for _, words := range []string{"--memory", "--tls", "zzz"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s is not in: %v", words, err)
		}
	}
	// Variables that are nobody's misspelling are somebody else's.
	load(t, Sources{Root: true, Env: []string{"GLIDE_SERVICE_HOST=10.0.0.1", "GLIDE_PORT=tcp://10.0.0.1:80", "GLIDE_BIN=/x", "GLIDE_TOOLS=/y", "PATH=/bin"}})
}

func TestTokenForLocalOnly(t *testing.T) {
	for _, a := range []string{"unix:/a", "tcp:127.0.0.1:1", "tcp:[::1]:1", "tcp:localhost:1"} {
		load(t, Sources{Root: true, Flags: map[string][]string{"api": {a}}})
	}
	load(t, Sources{Root: true, Flags: map[string][]string{"api": {"tcp:0.0.0.0:1"}, "token-file": {"x"}}})
}

// TestDocs: the page of the settings says what the declarations say.
// GLIDE_UPDATE=1 writes its table.
func TestDocs(t *testing.T) {
	const path, begin, end = "../../docs/configuration.md", "<!-- settings -->\n", "<!-- end -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", path, begin, end)
	}
	var table strings.Builder
	table.WriteString("| flag | key | variable | default | |\n|---|---|---|---|---|\n")
	for _, s := range append([]Setting{fileSetting}, Settings...) {
		key, def, arg := "`"+s.Name+"`", s.DefaultText, strings.ReplaceAll(s.Arg, "|", "\\|")
		if s.Name == fileSetting.Name {
			key, def = "", "none"
		}
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		usage := s.Usage
		if s.Many {
			usage += "; may be repeated"
		}
		fmt.Fprintf(&table, "| `--%s %s` | %s | `%s` | %s | %s |\n", s.Name, arg, key, s.Env(), def, usage)
	}
	want := head + begin + table.String() + end + tail
	if os.Getenv("GLIDE_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(b) {
		t.Errorf("%s does not say what the declarations say; GLIDE_UPDATE=1 writes it", path)
	}
}

func TestDeclarations(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Settings {
		if seen[s.Name] || s.Arg == "" || s.Usage == "" || s.set == nil || (s.Default == "") == (s.DefaultText == "") {
			t.Errorf("%+v", s)
		}
		seen[s.Name] = true
	}
}

func FuzzShare(f *testing.F) {
	for _, s := range []string{"80%", "10G", "0%", "%", "1.5T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sh, err := share(s)
		if err == nil && (sh.Percent < 0 || sh.Percent > 100 || sh.Bytes < 0 || sh == host.Share{}) {
			t.Fatalf("share(%q) = %+v", s, sh)
		}
	})
}

// FuzzFile gives the reader of configuration files anything.
func FuzzFile(f *testing.F) {
	f.Add("")
	f.Add("memory = \"256M\"\npack-blocks = 25\nnbd = [\"unix:/run/a\", \"tcp:127.0.0.1:10809\"]\n")
	f.Add("[store]\nurl = 1")
	f.Add("retention = 72h\nlog-level = \"debug\"")
	f.Fuzz(func(t *testing.T, text string) {
		// The parser keeps a value, its key and its place for each pair.
		fuzztest.Bound(t, len(text), 1<<20, 1024, func() {
			values, err := parseFile("glide.toml", []byte(text))
			for key, v := range values {
				for _, s := range Settings {
					if s.Name == key {
						_ = s.set(&Config{}, v.list) // it may be wrong
					}
				}
			}
			if err != nil && errs.KindOf(err) != errs.Invalid {
				t.Errorf("%q: %v", text, err)
			}
		})
	})
}

// TestHugeFile: a file that is no configuration is not read to its end.
func TestHugeFile(t *testing.T) {
	_, err := Load(Sources{Flags: map[string][]string{"config": {"/dev/zero"}}})
	if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "/dev/zero") {
		t.Error(err)
	}
}
