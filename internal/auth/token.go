package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// A token is text that its holder shows once for each request:
//
//	glide_<id>_<secret>_<checksum>
//
// The id is 8 hexadecimal digits; the secret is 32 random bytes, 43 characters of the URL
// alphabet of base64; the checksum is the low 24 bits of the CRC-32C of all before it, in
// hexadecimal. It finds what was mistyped or cut off without a look at any token, and lets
// scanners for leaked secrets recognize one.
const (
	tokenPrefix = "glide_"
	idLen       = 8
	secretLen   = 43
	checkLen    = 6
	tokenLen    = len(tokenPrefix) + idLen + 1 + secretLen + 1 + checkLen
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(s string) string {
	return fmt.Sprintf("%06x", crc32.Checksum([]byte(s), castagnoli)&0xffffff)
}

// Token is what is kept of a token. The secret is not.
type Token struct {
	ID      string
	hash    [sha256.Size]byte // of the whole text
	Tenant  string            // "": all
	Volumes []string          // patterns; none: all
	Verbs   Verbs
	Until   time.Time // the zero time: for ever
}

// NewToken makes a token, and returns its text, which nothing keeps.
func NewToken(tenant string, volumes []string, verbs Verbs, until time.Time) (*Token, string) {
	var b [idLen/2 + 32]byte
	_, _ = rand.Read(b[:]) // it does not fail
	id := hex.EncodeToString(b[:idLen/2])
	text := tokenPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(b[idLen/2:]) + "_"
	text += checksum(text)
	return &Token{ID: id, hash: sha256.Sum256([]byte(text)), Tenant: tenant, Volumes: volumes, Verbs: verbs, Until: until}, text
}

// idOf returns the id in a token's text. ok is false for what cannot be a token.
func idOf(text string) (id string, ok bool) {
	if len(text) != tokenLen || !strings.HasPrefix(text, tokenPrefix) {
		return "", false
	}
	body := text[:tokenLen-checkLen]
	return text[len(tokenPrefix) : len(tokenPrefix)+idLen], checksum(body) == text[tokenLen-checkLen:]
}

// is tells whether the text is this token, in a time that does not depend on where they
// differ.
func (t *Token) is(text string) bool {
	h := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(h[:], t.hash[:]) == 1
}

// over tells whether the token has ended.
func (t *Token) over(now time.Time) bool { return !t.Until.IsZero() && !now.Before(t.Until) }

func (t *Token) principal() *Principal {
	return &Principal{Who: "token " + t.ID, Tenant: t.Tenant, Volumes: t.Volumes, Verbs: t.Verbs, Until: t.Until}
}

const anything = "*"

// line is the token in a file of tokens.
func (t *Token) line() string {
	tenant, volumes, until := t.Tenant, strings.Join(t.Volumes, ","), "-"
	if tenant == "" {
		tenant = anything
	}
	if volumes == "" {
		volumes = anything
	}
	if !t.Until.IsZero() {
		until = t.Until.UTC().Format(time.RFC3339)
	}
	return strings.Join([]string{t.ID, hex.EncodeToString(t.hash[:]), tenant, t.Verbs.String(), volumes, until}, " ")
}

// parseLine reads a line of a file of tokens. A mistake is errs.Invalid, and the message
// does not repeat the hash.
func parseLine(line string) (*Token, error) {
	f := strings.Fields(line)
	if len(f) != 6 {
		return nil, errs.New(errs.Invalid, "it has %d words, not 6: id, sha256, tenant, verbs, volumes, time", len(f))
	}
	t := &Token{ID: f[0]}
	if id, err := hex.DecodeString(f[0]); err != nil || len(id) != idLen/2 || strings.ToLower(f[0]) != f[0] {
		return nil, errs.New(errs.Invalid, "%.20q is no id of a token: 8 hexadecimal digits", f[0])
	}
	h, err := hex.DecodeString(f[1])
	if err != nil || len(h) != sha256.Size {
		return nil, errs.New(errs.Invalid, "token %s: the second word is no SHA-256 in hexadecimal", t.ID)
	}
	copy(t.hash[:], h)
	if t.Tenant = f[2]; t.Tenant == anything {
		t.Tenant = ""
	}
	if t.Verbs, err = ParseVerbs(f[3]); err != nil {
		return nil, fmt.Errorf("token %s: %w", t.ID, err)
	}
	if t.Volumes, err = parsePatterns(f[4]); err != nil {
		return nil, fmt.Errorf("token %s: %w", t.ID, err)
	}
	if f[5] != "-" {
		if t.Until, err = time.Parse(time.RFC3339, f[5]); err != nil {
			return nil, errs.New(errs.Invalid, "token %s: %.40q is no time, such as 2026-12-31T00:00:00Z, and not -", t.ID, f[5])
		}
	}
	return t, nil
}

// parsePatterns reads patterns with commas between them; * alone is none, which means all.
func parsePatterns(s string) (list []string, err error) {
	if s == anything {
		return nil, nil
	}
	for p := range strings.SplitSeq(s, ",") {
		if err := CheckPattern(p); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}
