// Package localkey is the key of a host's own data directory: with it the host seals its
// log, its SSD tier and its metadata.
//
// The key is the host's and not a tenant's: what is on the disk opens whether or not the
// tenants' keys are at hand. The directory has a keyring (package keys) of a domain with a
// random number, whose tenant is the host. Its parts are
//
//	keys/<domain>/<number>  the keyring, wrapped for the provider of --local-key
//	local-key               says which domain it is; it is written last
//
// The file local-key says that the directory is sealed. Without it nothing is, and a keyring
// that a start left behind halfway is not used. With it, nothing is ever created anew: a
// keyring that is missing is missed, and a provider that is away is waited for by whoever
// starts the host again.
package localkey

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// markerFile is the name of the file that says which domain the directory's is.
const markerFile = "local-key"

// marker is the content of that file.
type marker struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Domain  string `json:"domain"` // 8 hexadecimal digits
	Host    string `json:"host"`
}

const (
	markerFormat  = "glide-local-key"
	markerVersion = 1
)

// Open returns the keys of the host whose data directory this is, made at the first call
// with a provider: see keys.Parse. Without a provider it returns nil if the directory is not
// sealed. Only one process may use the directory. Errors are errs.Invalid of a wrong setting,
// errs.Unavailable while the keys cannot be had, and errs.Corrupt.
func Open(ctx context.Context, data, provider, host string) (*seal.Local, error) {
	path := filepath.Join(data, markerFile)
	raw, err := os.ReadFile(path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the host's own key: %w", err)
	case provider == "" && err != nil:
		return nil, nil
	case provider == "":
		return nil, errs.New(errs.Invalid, "the data directory %s is sealed with the host's own key: give the --local-key that it had", data)
	}
	p, err := keys.Parse(provider)
	if err != nil {
		return nil, fmt.Errorf("--local-key: %w", err)
	}
	abs, err := filepath.Abs(data)
	if err != nil {
		return nil, err
	}
	store, err := objstore.Open(ctx, (&url.URL{Scheme: "file", Path: abs}).String(), objstore.Options{})
	if err != nil {
		return nil, fmt.Errorf("open the host's own keyring: %w", err)
	}
	k := &keys.Keyrings{Store: store, Providers: []keys.Provider{p}, Now: time.Now}
	if raw == nil {
		return create(ctx, k, host)
	}
	domain, err := readMarker(path, raw, host)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, k, domain, host)
	if err != nil {
		return nil, fmt.Errorf("the host's own key, which seals %s, cannot be had: %w; %s", data, err, advice(err))
	}
	return l, nil
}

// advice says what to do about a keyring that does not open.
func advice(err error) string {
	switch {
	case errors.Is(err, keys.ErrAway):
		return "nothing is lost: start glide again when the provider of --local-key answers"
	case errors.Is(err, keys.ErrDenied):
		return "nothing is lost: allow this host the key of --local-key, and start glide again"
	case errors.Is(err, keys.ErrWrongKey):
		return "nothing is lost: give the --local-key that the directory was sealed with"
	case errors.Is(err, keys.ErrErased):
		return "nothing is made anew: put the directory's keys/ back from a copy"
	}
	return "put the directory's keys/ back from a copy"
}

// create makes the keyring. It opens it again before the marker says that there is one: a
// provider that only wraps, such as the recipient of age, would lock the host out.
func create(ctx context.Context, k *keys.Keyrings, host string) (*seal.Local, error) {
	var number [4]byte
	for binary.LittleEndian.Uint32(number[:]) == 0 {
		_, _ = rand.Read(number[:])
	}
	domain := binary.LittleEndian.Uint32(number[:])
	if _, err := k.Create(ctx, keys.Birth{Domain: domain, Tenant: host, Suite: seal.AES256GCM, OneKey: true}); err != nil {
		return nil, fmt.Errorf("the host's own key cannot be made: %w", err)
	}
	l, err := open(ctx, k, domain, host)
	if err != nil {
		return nil, fmt.Errorf("what --local-key seals it does not open: %w", err)
	}
	raw, err := json.Marshal(marker{markerFormat, markerVersion, fmt.Sprintf("%08x", domain), host})
	if err == nil {
		err = k.Store.PutIfAbsent(ctx, markerFile, append(raw, '\n'))
	}
	if err != nil {
		return nil, fmt.Errorf("the host's own key cannot be kept: %w", err)
	}
	return l, nil
}

func open(ctx context.Context, k *keys.Keyrings, domain uint32, host string) (*seal.Local, error) {
	ring, err := k.Open(ctx, domain, host, keys.Seen{})
	if err != nil {
		return nil, err
	}
	d, err := ring.Keys()
	if err != nil {
		return nil, err
	}
	return d.Local(host), nil
}

func readMarker(path string, raw []byte, host string) (domain uint32, err error) {
	var m marker
	if err := json.Unmarshal(raw, &m); err != nil || m.Format != markerFormat {
		return 0, errs.New(errs.Corrupt, "%s does not say which keyring is the host's: put it back from a copy", path)
	}
	if m.Version > markerVersion {
		return 0, errs.New(errs.Unsupported, "%s is of version %d, this program knows up to %d: use a newer glide", path, m.Version, markerVersion)
	}
	if _, err := fmt.Sscanf(m.Domain, "%08x", &domain); err != nil || domain == 0 {
		return 0, errs.New(errs.Corrupt, "%s does not say which keyring is the host's: put it back from a copy", path)
	}
	if m.Host != host {
		return 0, errs.New(errs.Corrupt, "%s is of host %s, and this is host %s: the directory is a mixture of two", path, m.Host, host)
	}
	return domain, nil
}

// Encrypted reports whether the disk of a directory is encrypted by the kernel (dm-crypt),
// directly or below other layers. known is false if that cannot be told, as in a container.
func Encrypted(dir string) (yes, known bool) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false, false
	}
	return encrypted(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), maxLayers)
}

// maxLayers bounds how many devices below each other are looked at.
const maxLayers = 8

// encrypted is Encrypted for a device in /sys. Of a device on several others, all must be.
func encrypted(device string, layers int) (yes, known bool) {
	if _, err := os.Stat(device); err != nil {
		return false, false
	}
	if uuid, err := os.ReadFile(filepath.Join(device, "dm", "uuid")); err == nil && strings.HasPrefix(string(uuid), "CRYPT-") {
		return true, true
	}
	below, err := os.ReadDir(filepath.Join(device, "slaves"))
	if err != nil || len(below) == 0 || layers == 0 {
		return false, true
	}
	for _, b := range below {
		if yes, known := encrypted(filepath.Join(device, "slaves", b.Name()), layers-1); !yes {
			return false, known
		}
	}
	return true, true
}
