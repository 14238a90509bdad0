package objstore

import (
	"errors"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

func TestURL(t *testing.T) {
	for raw, want := range map[string]location{
		"file:///var/lib/glide/store": {scheme: "file", dir: "/var/lib/glide/store"},
		"file:///a/../b//c/":          {scheme: "file", dir: "/b/c"},
		"file:///with%20space%3F":     {scheme: "file", dir: "/with space?"},
		"file:///d?installation=a-1":  {scheme: "file", dir: "/d", installation: "a-1"},
		"mem://":                      {scheme: "mem"},
		"s3://my-bucket":              {scheme: "s3", bucket: "my-bucket"},
		"s3://my-bucket/":             {scheme: "s3", bucket: "my-bucket"},
		"s3://my.bucket/a/b/":         {scheme: "s3", bucket: "my.bucket", prefix: "a/b"},
		"s3://b-1?endpoint=http://127.0.0.1:7070&region=eu-west-1&path_style=true": {
			scheme: "s3", bucket: "b-1", endpoint: "http://127.0.0.1:7070", region: "eu-west-1", pathStyle: "true",
		},
		"s3://bkt/p?sse=aws:kms&kms_key=arn:aws:kms:eu-west-1:1:key/2&path_style=false": {
			scheme: "s3", bucket: "bkt", prefix: "p", sse: "aws:kms", kmsKey: "arn:aws:kms:eu-west-1:1:key/2", pathStyle: "false",
		},
		"s3://bkt?sse=AES256": {scheme: "s3", bucket: "bkt", sse: "AES256"},
	} {
		got, err := parseURL(raw)
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v; want %+v", raw, got, err, want)
		}
	}
}

func TestURLBad(t *testing.T) {
	for raw, says := range map[string]string{
		"":                                          "no scheme",
		"/var/lib/store":                            "no scheme",
		"ftp://host/dir":                            `scheme "ftp" is not known`,
		"file://dir/sub":                            "three slashes",
		"file:///":                                  "names no directory",
		"file:dir":                                  "lacks the slashes",
		"file:///dir?sync=no":                       "\"sync\" is not known: there are installation",
		"file:///dir?":                              "ends with a question mark",
		"file:///dir?installation=A":                "installation=A is no name",
		"s3://bucket?installation=a/b":              "installation=a/b is no name",
		"file:///dir#x":                             "fragment",
		"file:///a%zz":                              "invalid URL escape",
		"file:///a%00b":                             "zero byte",
		"mem://x":                                   "nothing more",
		"s3://":                                     "no bucket's name",
		"s3:///prefix":                              "no bucket's name",
		"s3://x":                                    "no bucket's name",
		"s3://host:9000/b":                          "no bucket's name",
		"s3://key:secret@bucket":                    "credentials do not belong",
		"s3://key:se%zzret@bucket":                  "is none",
		"s3://bucket/a//b":                          "empty part",
		"s3://bucket/../b":                          "begins with a dot",
		"s3://bucket?regoin=x":                      `"regoin" is not known: there are checksum, endpoint, installation, kms_key, path_style, region, sse`,
		"s3://bucket?region=":                       "region wants one value",
		"s3://bucket?region=a&region=b":             "region wants one value",
		"s3://bucket?a;b":                           "its parameters",
		"s3://bucket?path_style=yes":                "neither true nor false",
		"s3://bucket?sse=aes":                       "neither AES256 nor aws:kms",
		"s3://bucket?kms_key=k":                     "kms_key needs sse=aws:kms",
		"s3://bucket?kms_key=k&sse=AES256":          "kms_key needs sse=aws:kms",
		"s3://bucket?checksum=sha1":                 "neither crc32c nor md5",
		"s3://vms--use1-az4--x-s3":                  "directory bucket",
		"s3://bucket?endpoint=127.0.0.1:7070":       "not of the form http[s]://HOST",
		"s3://bucket?endpoint=http://u:secret@h":    "not of the form http[s]://HOST",
		"s3://bucket?endpoint=http://:80":           "not of the form http[s]://HOST",
		"s3://bucket?endpoint=unix:///run/s3.sock":  "not of the form http[s]://HOST",
		"s3://bucket?endpoint=http://host/?x%3D%31": "not of the form http[s]://HOST",
	} {
		_, err := parseURL(raw)
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want it to say %q", raw, err, says)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "se%zzret")) {
			t.Errorf("%s: the message has the password: %v", raw, err)
		}
	}
}

// FuzzURL checks that parsing never panics, that what is refused is refused as
// invalid, and that a URL that was understood can be printed and read again.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{
		"file:///dir", "file:///dir?installation=prod", "s3://b?installation=prod", "file:///a/../../b%2Fc", "mem://", "s3://bucket/prefix?endpoint=https://h:1/x&region=r&path_style=true",
		"s3://bucket?sse=aws:kms&kms_key=a%26b", "s3://%62ucket", "s3://bu_cket/%41/b", "s3://[::1]/x", "file://localhost/x", "S3://bucket",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		loc, err := parseURL(raw)
		if err != nil {
			if !errors.Is(err, errs.Invalid) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		again, err := parseURL(loc.String())
		if err != nil || again != loc {
			t.Fatalf("%q is %+v, printed %q, which is %+v, %v", raw, loc, loc.String(), again, err)
		}
		if loc.scheme == schemeFile && (!strings.HasPrefix(loc.dir, "/") || strings.Contains(loc.dir+"/", "/../")) {
			t.Fatalf("%q leads to %q", raw, loc.dir)
		}
	})
}

// TestFileDir: a URL that Open refuses has no directory.
func TestFileDir(t *testing.T) {
	for raw, want := range map[string]string{"file:///a/../b": "/b", "file:///b?installation=x": "/b", "file://host/absent": "", "file:///b?x": "", "s3://bucket": "", "mem://": ""} {
		if dir, ok := FileDir(raw); dir != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", raw, dir, ok)
		}
	}
}
