package objstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/paraglide/glide/internal/problem"
)

// credentials marks the errors of a provider, which the SDK wraps beyond
// recognition.
type credentials struct{ aws.CredentialsProvider }

type credentialsError struct{ error }

func (c *credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	creds, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return creds, &credentialsError{err}
	}
	return creds, nil
}

// answers are what S3's error codes mean. A hint says what to do; it is also
// what marks trouble that will not pass by itself. Unavailable is also a store
// that is set up wrong: whoever asks for a flush has not typed its URL, and the
// daemon goes on with its local volumes.
var answers = map[string]struct {
	kind problem.Kind
	hint string
}{
	"NoSuchKey":                  {kind: problem.NotFound},
	"NotFound":                   {kind: problem.NotFound}, // a HEAD has no other code
	"PreconditionFailed":         {kind: problem.Exists},
	"ConditionalRequestConflict": {kind: problem.Unavailable}, // a rival create is under way
	"OperationAborted":           {kind: problem.Unavailable}, // the same, elsewhere
	"RequestTimeout":             {kind: problem.Unavailable},
	"IncompleteBody":             {kind: problem.Unavailable},
	"BadDigest":                  {kind: problem.Unavailable}, // damaged on the way up
	"XAmzContentSHA256Mismatch":  {kind: problem.Unavailable},
	"QuotaExceeded":              {kind: problem.NoSpace},
	"XMinioStorageFull":          {kind: problem.NoSpace},
	"NotImplemented":             {kind: problem.Unsupported},
	"ObjectParentIsFile":         {kind: problem.Invalid},
	"ExistingObjectIsDirectory":  {kind: problem.Invalid},
	"NoSuchBucket":               {problem.Unavailable, "create the bucket, or correct the store's URL"},
	"PermanentRedirect":          {problem.Unavailable, "the bucket is in another region: correct region= in the store's URL"},
	"AuthorizationHeaderMalformed": {
		problem.Unavailable, "the signature is for another region: correct region= in the store's URL",
	},
	"InvalidAccessKeyId":      {problem.Unavailable, "the store does not know the access key: check AWS_ACCESS_KEY_ID or the profile"},
	"XAdminUserNotFound":      {problem.Unavailable, "the store does not know the access key: check AWS_ACCESS_KEY_ID or the profile"}, // versitygw
	"SignatureDoesNotMatch":   {problem.Unavailable, "the secret key is wrong: check AWS_SECRET_ACCESS_KEY or the profile"},
	"ExpiredToken":            {problem.Unavailable, "the session token has expired: get new credentials"},
	"InvalidToken":            {problem.Unavailable, "the session token is not valid: check AWS_SESSION_TOKEN"},
	"RequestTimeTooSkewed":    {problem.Unavailable, "this machine's clock differs from the store's: set it right"},
	"AccessDenied":            {problem.Unavailable, "the credentials do not permit it: grant GetObject, PutObject, DeleteObject and ListBucket"},
	"Forbidden":               {problem.Unavailable, "the credentials are wrong, or do not permit it"}, // a HEAD has no other code
	"InvalidObjectState":      {problem.Unavailable, "the object lies in an archive: restore it"},
	"KMS.DisabledException":   {problem.Unavailable, "the key of sse=aws:kms is disabled"},
	"KMS.NotFoundException":   {problem.Unavailable, "the key of sse=aws:kms does not exist: correct kms_key="},
	"InvalidEncryptionMethod": {problem.Unavailable, "the store does not have this encryption: correct sse="},
}

// slowDowns are the codes by which a store asks for fewer requests.
var slowDowns = map[string]bool{
	"SlowDown": true, "SlowDownRead": true, "SlowDownWrite": true, "RequestLimitExceeded": true,
	"Throttling": true, "ThrottlingException": true, "TooManyRequests": true,
}

func apiCode(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// fail gives the SDK's error its kind, and says in one line what happened.
func (s *s3Store) fail(ctx context.Context, op Op, key string, err error) error {
	response, answered := errors.AsType[*awshttp.ResponseError](err)
	if answered && response.HTTPStatusCode() >= 300 {
		code, message := "", response.Err.Error()
		if api, ok := errors.AsType[smithy.APIError](err); ok {
			code, message = api.ErrorCode(), api.ErrorMessage()
		}
		return s.refused(op, key, response.HTTPStatusCode(), code, message)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return marked{problem.New(problem.Unavailable, "%s %s: %s does not answer in time, check its address and the network", op, key, s), ctx.Err()}
	}
	if ctx.Err() != nil {
		return contextError(op, key, ctx.Err())
	}
	if creds, ok := errors.AsType[*credentialsError](err); ok {
		return persistent(problem.New(problem.Unavailable,
			"%s %s: no credentials for %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (%s)", op, key, s, oneLine(creds.Error())))
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return persistent(problem.New(problem.Unavailable,
			"%s %s: the certificate of %s is not trusted: set AWS_CA_BUNDLE (%w)", op, key, s, untrusted))
	}
	if send, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		return problem.New(problem.Unavailable, "%s %s: %s does not answer, check its address and the network: %w", op, key, s, withoutURL(send.Err))
	}
	if operation, ok := errors.AsType[*smithy.OperationError](err); ok && !answered {
		return problem.New(problem.Internal, "%s %s in %s: %w", op, key, s, operation.Err)
	}
	return problem.New(problem.Unavailable, "%s %s: the answer of %s broke off: %w", op, key, s, err)
}

func withoutURL(err error) error {
	if why, ok := errors.AsType[*url.Error](err); ok {
		return why.Err
	}
	return err
}

// refused is the error that the store itself answered with. The status is 0
// for one key of a batch.
func (s *s3Store) refused(op Op, key string, status int, code, message string) error {
	switch answer, known := answers[code]; {
	case slowDowns[code] || status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return marked{problem.New(problem.Unavailable, "%s %s: %s asks to slow down (%s)", op, key, s, describe(status, code, message)), ErrSlowDown}
	case known && answer.kind == problem.NotFound:
		return absent(op, key, s.String())
	case known && answer.kind == problem.Exists:
		return exists(op, key, s.String())
	case known && answer.hint != "":
		return persistent(problem.New(answer.kind, "%s %s: %s refuses: %s (%s)", op, key, s, answer.hint, describe(status, code, message)))
	case known:
		return problem.New(answer.kind, "%s %s: %s refuses: %s", op, key, s, describe(status, code, message))
	case status == http.StatusInsufficientStorage:
		return problem.New(problem.NoSpace, "%s %s: %s is full: %s", op, key, s, describe(status, code, message))
	case status >= 500 || code == "InternalError" || status == http.StatusRequestTimeout:
		return problem.New(problem.Unavailable, "%s %s: %s failed: %s", op, key, s, describe(status, code, message))
	case status == http.StatusPreconditionFailed:
		return exists(op, key, s.String())
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return persistent(problem.New(problem.Unavailable, "%s %s: %s refuses: check the credentials and what they permit (%s)",
			op, key, s, describe(status, code, message)))
	default:
		return problem.New(problem.Internal, "%s %s: %s refuses: %s", op, key, s, describe(status, code, message))
	}
}

// describe is the store's own account of an error.
func describe(status int, code, message string) string {
	text := code
	if message != "" {
		text += ": " + oneLine(message)
	}
	if status != 0 {
		text = strings.TrimSpace(fmt.Sprintf("%d %s", status, text))
	}
	return text
}

// oneLine makes a foreign text fit for an error message.
func oneLine(text string) string {
	const most = 300 // bytes; some servers answer with a page
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
