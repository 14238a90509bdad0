package connect

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/nearest"
)

// Default is the name of the context of this machine's own daemon, which every file has.
const Default = "default"

// Context says where a daemon is, and which files say who asks it. It has no secrets itself.
type Context struct {
	API       string `toml:"api" json:"api"`
	TokenFile string `toml:"token-file,omitempty" json:"token_file,omitempty"`
	TLSCA     string `toml:"tls-ca,omitempty" json:"tls_ca,omitempty"`
	TLSCert   string `toml:"tls-cert,omitempty" json:"tls_cert,omitempty"`
	TLSKey    string `toml:"tls-key,omitempty" json:"tls_key,omitempty"`
}

// Contexts are the contexts of a user, in a file of TOML.
type Contexts struct {
	Use     string             `toml:"use,omitempty"` // the one in use; "": Default
	Context map[string]Context `toml:"context"`

	path string
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ReadContexts reads the user's contexts. There may be no file of them yet.
func ReadContexts() (*Contexts, error) {
	dir, err := os.UserConfigDir() // $XDG_CONFIG_HOME, or .config in the home directory
	if err != nil {
		dir = "" // neither is known, so there are none
	}
	c := &Contexts{Context: map[string]Context{}, path: filepath.Join(dir, "glide", "contexts.toml")}
	st, err := os.Stat(c.path)
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "the contexts: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, errs.New(errs.Invalid, "the contexts in %s can be written by others, who could have your tokens sent to them: chmod go-w it", c.path)
	}
	known, err := toml.DecodeFile(c.path, c)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the contexts: %s: %w", c.path, err)
	}
	if rest := known.Undecoded(); len(rest) > 0 {
		return nil, errs.New(errs.Invalid, "the contexts: %s: the key %.60q is not known", c.path, rest[0].String())
	}
	return c, nil
}

// Names are the names of all contexts, in order.
func (c *Contexts) Names() []string {
	return slices.Sorted(maps.Keys(c.all()))
}

func (c *Contexts) all() map[string]Context {
	all := maps.Clone(c.Context)
	if all == nil {
		all = map[string]Context{}
	}
	all[Default] = Context{}
	return all
}

// Of returns a context; "" is the one in use. That of Default is empty.
func (c *Contexts) Of(name string) (Context, error) {
	if name == "" {
		name = c.Use
	}
	if name == "" {
		name = Default
	}
	x, ok := c.all()[name]
	if !ok {
		return x, errs.New(errs.Invalid, "there is no context %.60q%s (glide context ls lists them)", name, nearest.Hint(name, c.Names()))
	}
	if name != Default && x.API == "" {
		return x, errs.New(errs.Invalid, "the contexts: %s: %s has no api", c.path, name)
	}
	return x, nil
}

// Select makes a context the one in use.
func (c *Contexts) Select(name string) error {
	if _, err := c.Of(name); err != nil {
		return err
	}
	if c.Use = name; name == Default {
		c.Use = ""
	}
	return c.write()
}

// Add adds a context, after a look at whether its files are there and can be used. Their
// paths are kept from the root.
func (c *Contexts) Add(name string, x Context) error {
	switch _, ok := c.all()[name]; {
	case !contextName.MatchString(name):
		return errs.New(errs.Invalid, "%.80q is no name of a context: letters, digits, dots, hyphens and underscores", name)
	case ok:
		return errs.New(errs.Exists, "there is a context %q: choose another name, or glide context rm it first", name)
	case x.API == "":
		return errs.New(errs.Invalid, "a context is for a daemon: name it with --api")
	}
	if err := x.fromRoot(); err != nil {
		return err
	}
	client, err := x.client()
	if err != nil {
		return err
	}
	client.Close()
	c.Context[name] = x
	return c.write()
}

// fromRoot makes its paths absolute: the context is for commands in any directory.
func (x *Context) fromRoot() error {
	socket, isSocket := strings.CutPrefix(x.API, "unix:")
	for _, path := range []*string{&socket, &x.TokenFile, &x.TLSCA, &x.TLSCert, &x.TLSKey} {
		if *path == "" || !isSocket && path == &socket {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return errs.New(errs.Invalid, "%s: %w", *path, err)
		}
		*path = abs
	}
	if isSocket && socket != "" {
		x.API = "unix:" + socket
	}
	return nil
}

// Remove removes a context. If it was in use, Default is.
func (c *Contexts) Remove(name string) error {
	if name == Default {
		return errs.New(errs.Invalid, "the context %q is this machine's own daemon, and stays", name)
	}
	if _, ok := c.Context[name]; !ok {
		return errs.New(errs.NotFound, "there is no context %.60q%s (glide context ls lists them)", name, nearest.Hint(name, c.Names()))
	}
	delete(c.Context, name)
	if c.Use == name {
		c.Use = ""
	}
	return c.write()
}

// write replaces the file.
func (c *Contexts) write() error {
	var b bytes.Buffer
	b.WriteString("# the daemons that glide asks; changed by glide context\n")
	err := toml.NewEncoder(&b).Encode(c)
	dir := filepath.Dir(c.path)
	if err == nil && !filepath.IsAbs(dir) {
		err = errors.New("neither $XDG_CONFIG_HOME nor $HOME says where")
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = replace(c.path, b.Bytes())
	}
	if err != nil {
		return errs.New(errs.Unavailable, "the contexts cannot be written: %w", err)
	}
	return nil
}

// replace replaces a file by another with mode 0600.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".contexts-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
