package objstore

import (
	"errors"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

// The schemes of store URLs.
const (
	schemeFile = "file"
	schemeS3   = "s3"
	schemeMem  = "mem"
)

// location is a store URL, taken apart.
type location struct {
	scheme       string
	dir          string // file: absolute and clean
	installation string // whose the store is; empty: not told

	// s3
	bucket   string
	prefix   string // without slashes at its ends; may be empty
	endpoint string // empty: Amazon's
	region   string // empty: from the environment
	// pathStyle has the bucket in the path rather than in the host's name:
	// "true", "false", or empty, which is true with an endpoint of one's own.
	pathStyle string
	sse       string // "", "AES256" or "aws:kms"
	kmsKey    string // of aws:kms; empty: the account's default key
	checksum  string // sent with what is written: "", "crc32c" or "md5"
}

// The checksums that buckets may demand.
const (
	checksumCRC32C = "crc32c"
	checksumMD5    = "md5"
)

var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$`)

// s3Params are the query parameters of an s3 URL.
var s3Params = map[string]func(l *location) *string{
	"endpoint":     func(l *location) *string { return &l.endpoint },
	"region":       func(l *location) *string { return &l.region },
	"path_style":   func(l *location) *string { return &l.pathStyle },
	"sse":          func(l *location) *string { return &l.sse },
	"kms_key":      func(l *location) *string { return &l.kmsKey },
	"checksum":     func(l *location) *string { return &l.checksum },
	"installation": func(l *location) *string { return &l.installation },
}

var fileParams = map[string]func(l *location) *string{"installation": s3Params["installation"]}

var installationName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// parseURL takes a store URL apart. Errors, of kind errs.Invalid, say what
// is wrong with it and never repeat a password.
func parseURL(raw string) (location, error) {
	u, err := url.Parse(raw)
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err // without the URL
		}
		return location{}, badURL("%q is none: %w", redacted(raw), err)
	}
	switch {
	case u.Scheme == "":
		return location{}, badURL("%q has no scheme: file:///DIR and s3://BUCKET are possible", redacted(raw))
	case u.User != nil:
		return location{}, badURL("credentials do not belong into the URL: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return location{}, badURL("%q has a fragment; write # as %%23", redacted(raw))
	case u.Opaque != "":
		return location{}, badURL("%q lacks the slashes after %s:", redacted(raw), u.Scheme)
	}
	switch u.Scheme {
	case schemeFile:
		return parseFile(u)
	case schemeS3:
		return parseS3(u)
	case schemeMem:
		if u.Host+u.Path+u.RawQuery == "" {
			return location{scheme: schemeMem}, nil
		}
		return location{}, badURL("mem:// takes nothing more")
	}
	return location{}, badURL("the scheme %q is not known: file:///DIR and s3://BUCKET are possible", u.Scheme)
}

// Installation is whose the store at a URL is; "": it does not say.
func Installation(raw string) (string, error) {
	l, err := parseURL(raw)
	return l.installation, err
}

// FileDir is the directory of a file:// URL.
func FileDir(raw string) (dir string, ok bool) {
	if l, err := parseURL(raw); err == nil && l.scheme == schemeFile {
		return l.dir, true
	}
	return "", false
}

func badURL(format string, args ...any) error {
	return errs.New(errs.Invalid, "store URL: "+format, args...)
}

// redacted is a URL that did not parse, for a message: without what might be
// a password.
func redacted(raw string) string {
	if i := strings.LastIndexByte(raw, '@'); i >= 0 {
		raw = "…" + raw[i:]
	}
	return raw
}

func parseFile(u *url.URL) (location, error) {
	switch {
	case u.Host != "":
		return location{}, badURL("file://%s…: the directory must be absolute, with three slashes: file:///DIR", u.Host)
	case u.ForceQuery:
		return location{}, badURL("it ends with a question mark; write ? in a directory's name as %%3F")
	case strings.ContainsRune(u.Path, 0):
		return location{}, badURL("the directory has a zero byte in its name")
	}
	dir := filepath.Clean("/" + u.Path)
	if dir == "/" {
		return location{}, badURL("file:/// names no directory: file:///DIR")
	}
	l := location{scheme: schemeFile, dir: dir}
	return l.params(u, fileParams)
}

func parseS3(u *url.URL) (location, error) {
	l := location{scheme: schemeS3, bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if !bucketName.MatchString(l.bucket) {
		return location{}, badURL("%q is no bucket's name: s3://BUCKET[/PREFIX]", l.bucket)
	}
	if strings.HasSuffix(l.bucket, "--x-s3") {
		return location{}, badURL("%q is a directory bucket, which does not list keys in order: the newest commit of a volume cannot be found there with a bounded number of requests; use a general purpose bucket", l.bucket)
	}
	if l.prefix != "" {
		if err := CheckKey(l.prefix); err != nil {
			return location{}, badURL("the prefix: %w", err)
		}
	}
	return l.params(u, s3Params)
}

// params reads the parameters of a URL.
func (l location) params(u *url.URL, known map[string]func(l *location) *string) (location, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return location{}, badURL("its parameters: %w", err)
	}
	for name, values := range query {
		field := known[name]
		if field == nil {
			return location{}, badURL("the parameter %q is not known: there are %s (write ? in a name as %%3F)", name,
				strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return location{}, badURL("the parameter %s wants one value", name)
		}
		*field(&l) = values[0]
	}
	return l, l.checkParams()
}

func (l location) checkParams() error {
	if l.endpoint != "" {
		e, err := url.Parse(l.endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Hostname() == "" || e.RawQuery != "" || e.User != nil || e.Fragment != "" {
			return badURL("endpoint=%s is not of the form http[s]://HOST[:PORT]", redacted(l.endpoint))
		}
	}
	if l.pathStyle != "" && l.pathStyle != "true" && l.pathStyle != "false" {
		return badURL("path_style=%s is neither true nor false", l.pathStyle)
	}
	if err := l.encryption().Validate(); err != nil {
		return badURL("%w", err)
	}
	if l.checksum != "" && l.checksum != checksumCRC32C && l.checksum != checksumMD5 {
		return badURL("checksum=%s is neither crc32c nor md5", l.checksum)
	}
	if l.installation != "" && !installationName.MatchString(l.installation) {
		return badURL("installation=%s is no name: up to 63 of a-z, 0-9, dots, underscores and hyphens", l.installation)
	}
	return nil
}

func (l location) encryption() Encryption { return Encryption{Mode: l.sse, KMSKey: l.kmsKey} }

// usesPathStyle tells where the bucket's name goes; servers other than
// Amazon's seldom have a host name for each bucket.
func (l location) usesPathStyle(ownEndpoint bool) bool {
	return l.pathStyle == "true" || l.pathStyle == "" && ownEndpoint
}

// readable undoes the escapes that a query does not need: endpoints and key
// names are full of them.
var readable = strings.NewReplacer("%3A", ":", "%2F", "/")

// String is the URL again; there are no secrets in it.
func (l location) String() string {
	u := url.URL{Scheme: l.scheme, Host: l.bucket, Path: l.dir}
	params := fileParams
	switch l.scheme {
	case schemeMem:
		return l.scheme + "://"
	case schemeS3:
		params = s3Params
	}
	if l.prefix != "" {
		u.Path = "/" + l.prefix
	}
	query := url.Values{}
	for name, field := range params {
		if v := *field(&l); v != "" {
			query.Set(name, v)
		}
	}
	u.RawQuery = readable.Replace(query.Encode())
	return u.String()
}
