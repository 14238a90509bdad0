package objstore

import (
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/paraglide/glide/internal/errs"
)

// Encryption is how a store is to encrypt an object. The zero value is the store's own
// setting, of its URL.
type Encryption struct {
	Mode   string // "AES256" or "aws:kms"
	KMSKey string // of aws:kms: an ID, an ARN or an alias; "": the account's default key
	// BucketKey asks for a key of the bucket under that key: far fewer requests to the
	// KMS, and its log names the bucket instead of each object. Of aws:kms only.
	BucketKey bool
}

// EncryptFor says how objects are to be encrypted, by their keys. It may be called
// concurrently, and is called for each try of each write, so it must be quick.
type EncryptFor func(key string) Encryption

const sseKMS = "aws:kms"

// Validate says what is wrong with it.
func (e Encryption) Validate() error {
	switch {
	case e.Mode != "" && e.Mode != "AES256" && e.Mode != sseKMS:
		return errs.New(errs.Invalid, "sse=%.60s is neither AES256 nor aws:kms", e.Mode)
	case e.KMSKey != "" && e.Mode != sseKMS:
		return errs.New(errs.Invalid, "kms_key needs sse=aws:kms")
	case e.BucketKey && e.Mode != sseKMS:
		return errs.New(errs.Invalid, "a bucket key needs sse=aws:kms")
	}
	return nil
}

// SetEncryption has a store, however wrapped by Open, encrypt the objects that it writes from
// now on as by says; nil ends that. What is stored already stays as it is. A store that cannot
// encrypt refuses to write an object for which by is not the zero value, and so does one that
// takes the setting and does not do it: with errs.Unsupported. It may be called at any time.
func SetEncryption(s Store, by EncryptFor) error {
	if w, ok := s.(interface{ SetEncryption(by EncryptFor) error }); ok { // one that opens a store later
		return w.SetEncryption(by)
	}
	bare, prefix := driver(s)
	e, ok := bare.(interface{ setEncryption(by EncryptFor) })
	switch {
	case !ok:
		return errs.New(errs.Unsupported, "%s: this store has no encryption for each key", s)
	case by == nil:
		e.setEncryption(nil)
	default:
		e.setEncryption(func(key string) Encryption { return by(strings.TrimPrefix(key, prefix)) })
	}
	return nil
}

// encryption is a driver's part of SetEncryption.
type encryption struct{ by atomic.Pointer[EncryptFor] }

func (e *encryption) setEncryption(by EncryptFor) { e.by.Store(&by) }

// of is how an object is to be encrypted, own if nobody says.
func (e *encryption) of(key string, own Encryption) (Encryption, error) {
	if by := e.by.Load(); by != nil && *by != nil {
		if x := (*by)(key); x != (Encryption{}) {
			return x, x.Validate()
		}
	}
	return own, nil
}

// refuse is the check of a driver whose store cannot encrypt.
func (e *encryption) refuse(op Op, key string, s Store) error {
	if x, err := e.of(key, Encryption{}); err != nil || x != (Encryption{}) {
		return errs.New(errs.Unsupported, "%s %s: %s does not encrypt, and the object is to be encrypted with sse=%s: use an S3 store that does", op, key, s, x.Mode)
	}
	return nil
}

// check checks what the store says of an object that it was to encrypt. Some stores take the
// setting, answer 200, and encrypt nothing. A key may be named by its ID, and be told by its
// ARN, which ends with it.
func (e Encryption) check(op Op, key string, s *s3Store, out *s3.PutObjectOutput) error {
	how, keyID := string(out.ServerSideEncryption), aws.ToString(out.SSEKMSKeyId)
	switch {
	case e.Mode == "":
		return nil
	case how == "":
		return errs.New(errs.Unsupported, "%s %s: %s took the object and did not encrypt it: it does not know sse=%s; use another store, or leave sse out", op, key, s, e.Mode)
	case how != e.Mode:
		return errs.New(errs.Unsupported, "%s %s: %s encrypted the object with %s, and not with sse=%s", op, key, s, how, e.Mode)
	case e.KMSKey != "" && !strings.HasPrefix(e.KMSKey, "alias/") && !strings.Contains(e.KMSKey, ":alias/") && keyID != e.KMSKey && !strings.HasSuffix(keyID, "/"+e.KMSKey):
		return errs.New(errs.Unsupported, "%s %s: %s encrypted the object with the key %.200q, and not with kms_key=%s", op, key, s, keyID, e.KMSKey)
	case e.BucketKey && !aws.ToBool(out.BucketKeyEnabled):
		return errs.New(errs.Unsupported, "%s %s: %s encrypted the object without a bucket key: it would ask the KMS for every object; ask for none, or use another store", op, key, s)
	}
	return nil
}
