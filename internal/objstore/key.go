package objstore

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/paraglide/glide/internal/errs"
)

const (
	maxKey  = 1024 // bytes; S3's limit
	maxPart = 255  // bytes; what a file name may have
)

// CheckKey says (as errs.Invalid) what keeps key from being a key: it has 1
// to 1024 bytes of printable UTF-8, in parts of 1 to 255 bytes between slashes.
// No part begins with a dot: "..", a driver's own directories and the hidden
// files of others thus name no object.
func CheckKey(key string) error {
	if len(key) > maxKey {
		return errs.New(errs.Invalid, "the object key %.40q… has %d bytes, at most %d are possible", key, len(key), maxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" {
			return errs.New(errs.Invalid, "the object key %q has an empty part", key)
		}
		if err := checkPart(key, part); err != nil {
			return err
		}
	}
	return nil
}

// checkPrefix is CheckKey for the beginning of keys, which may be empty and
// may end anywhere.
func checkPrefix(prefix string) error {
	dir, last := splitPrefix(prefix)
	if dir != "" {
		if err := CheckKey(strings.TrimSuffix(dir, "/")); err != nil {
			return err
		}
	}
	return checkPart(prefix, last)
}

// splitPrefix splits after the last slash: whole directories, and the
// beginning of a name.
func splitPrefix(prefix string) (dir, last string) {
	i := strings.LastIndexByte(prefix, '/') + 1
	return prefix[:i], prefix[i:]
}

func checkPart(key, part string) error {
	switch {
	case strings.HasPrefix(part, "."):
		return errs.New(errs.Invalid, "the object key %q has a part that begins with a dot", key)
	case len(part) > maxPart:
		return errs.New(errs.Invalid, "the object key %.40q… has a part of %d bytes, at most %d are possible", key, len(part), maxPart)
	case !utf8.ValidString(part):
		return errs.New(errs.Invalid, "the object key %q is not UTF-8", key)
	case strings.ContainsFunc(part, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errs.New(errs.Invalid, "the object key %q has an unprintable character", key)
	}
	return nil
}
