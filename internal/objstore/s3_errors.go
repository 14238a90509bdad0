package objstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/paraglide/glide/internal/errs"
)

// answers gives the meaning of S3's error codes. A hint says what to do; it also marks
// failures that will not pass by themselves. A wrongly configured store is Unavailable
// too: the user who runs a flush did not type its URL, and the daemon continues with
// its local volumes.
var answers = map[string]struct {
	kind errs.Kind
	hint string
}{
	"NoSuchKey":                  {kind: errs.NotFound},
	"NotFound":                   {kind: errs.NotFound}, // a HEAD has no other code
	"PreconditionFailed":         {kind: errs.Exists},
	"ConditionalRequestConflict": {kind: errs.Unavailable}, // a rival create is under way
	"OperationAborted":           {kind: errs.Unavailable}, // the same, elsewhere
	"RequestTimeout":             {kind: errs.Unavailable},
	"IncompleteBody":             {kind: errs.Unavailable},
	"BadDigest":                  {kind: errs.Unavailable}, // damaged on the way up
	"XAmzContentSHA256Mismatch":  {kind: errs.Unavailable},
	"QuotaExceeded":              {kind: errs.NoSpace},
	"XMinioStorageFull":          {kind: errs.NoSpace},
	"NotImplemented":             {kind: errs.Unsupported},
	"ObjectParentIsFile":         {kind: errs.Invalid},
	"ExistingObjectIsDirectory":  {kind: errs.Invalid},
	"NoSuchBucket":               {errs.Unavailable, "create the bucket, or correct the store's URL"},
	"PermanentRedirect":          {errs.Unavailable, "the bucket is in another region: correct region= in the store's URL"},
	"AuthorizationHeaderMalformed": {
		errs.Unavailable, "the signature is for another region: correct region= in the store's URL",
	},
	"InvalidAccessKeyId":      {errs.Unavailable, "the store does not know the access key"},
	"XAdminUserNotFound":      {errs.Unavailable, "the store does not know the access key"}, // versitygw
	"SignatureDoesNotMatch":   {errs.Unavailable, "the secret key does not belong to the access key, or a proxy changed what was signed"},
	"ExpiredToken":            {errs.Unavailable, "the session token has expired"},
	"InvalidToken":            {errs.Unavailable, "the session token is not valid"},
	"RequestTimeTooSkewed":    {errs.Unavailable, "this machine's clock differs from the store's: set it right"},
	"AccessDenied":            {errs.Unavailable, "the credentials do not permit it: grant GetObject, PutObject, DeleteObject and ListBucket"},
	"Forbidden":               {errs.Unavailable, "the credentials are wrong, or do not permit it"}, // a HEAD has no other code
	"InvalidObjectState":      {errs.Unavailable, "the object lies in an archive: restore it"},
	"KMS.DisabledException":   {errs.Unavailable, "the key of sse=aws:kms is disabled"},
	"KMS.NotFoundException":   {errs.Unavailable, "the key of sse=aws:kms does not exist: correct kms_key="},
	"InvalidEncryptionMethod": {errs.Unavailable, "the store does not have this encryption: correct sse="},
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

// fail gives the SDK's error its kind, and says in one line who refuses, and why.
func (s *s3Store) fail(ctx context.Context, op Op, key string, err error) error {
	response, answered := errors.AsType[*awshttp.ResponseError](err)
	if answered && response.HTTPStatusCode() >= 300 {
		code, message := "", response.Err.Error()
		if api, ok := errors.AsType[smithy.APIError](err); ok {
			code, message = api.ErrorCode(), api.ErrorMessage()
		}
		a := answer{status: response.HTTPStatusCode(), code: code, message: message}
		if response.Response != nil {
			a.header = response.Response.Header
			if r := response.Response.Request; r != nil {
				a.key = accessKey(r.Header.Get("Authorization"))
			}
		}
		return s.refused(ctx, op, key, a)
	}
	answered = answered && response.HTTPStatusCode() > 0
	if answered && !strings.Contains(err.Error(), "EOF") { // what broke off says so
		return persistent(errs.New(errs.Unavailable, "%s %s: what answers at %s is no S3 server (%s): check the address, and what lies between",
			op, key, s, oneLine(response.Err.Error())))
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return marked{errs.New(errs.Unavailable, "%s %s: %s does not answer in time, check its address and the network", op, key, s), ctx.Err()}
	}
	if ctx.Err() != nil {
		return contextError(op, key, ctx.Err())
	}
	if creds, ok := errors.AsType[*credentialsError](err); ok {
		return persistent(errs.New(errs.Unavailable,
			"%s %s: no credentials for %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (%s)", op, key, s, oneLine(creds.Error())))
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if s.trustAnew(ctx) {
			return errs.New(errs.Unavailable, "%s %s: the certificate of %s was not trusted, and the authorities have changed since: %w", op, key, s, untrusted)
		}
		return persistent(errs.New(errs.Unavailable,
			"%s %s: the certificate of %s is not trusted: set AWS_CA_BUNDLE (%w)", op, key, s, untrusted))
	}
	if send, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		why := withoutURL(send.Err)
		return errs.New(errs.Unavailable, "%s %s: %s: %w", op, key, s.unreached(why), why)
	}
	if operation, ok := errors.AsType[*smithy.OperationError](err); ok && !answered {
		return errs.New(errs.Internal, "%s %s in %s: %w", op, key, s, operation.Err)
	}
	return errs.New(errs.Unavailable, "%s %s: the answer of %s broke off: %w", op, key, s, err)
}

// unreached says what an error of the network means.
func (s *s3Store) unreached(err error) string {
	name, unknown := errors.AsType[*net.DNSError](err)
	_, clear := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case unknown && name.IsNotFound:
		return fmt.Sprintf("the name %s of the store %s is not known: check the address, or this machine's DNS", name.Name, s)
	case unknown:
		return fmt.Sprintf("the name %s of the store %s cannot be looked up: check this machine's DNS", name.Name, s)
	case clear, strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("%s answers without TLS: its endpoint begins with http://, or a proxy is in between", s)
	case strings.Contains(err.Error(), "malformed HTTP response"):
		return fmt.Sprintf("%s does not answer in HTTP: if it wants TLS, its endpoint begins with https://", s)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nobody listens at %s: check its address, and whether it runs", s)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("there is no way to %s: check this machine's network", s)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Sprintf("no connection to %s can be opened, this machine's limit of open files is reached: raise it (LimitNOFILE=, ulimit -n)", s)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("no connection to %s can be opened, this machine has no port left for it: see net.ipv4.ip_local_port_range", s)
	}
	return fmt.Sprintf("%s does not answer, check its address and the network", s)
}

func withoutURL(err error) error {
	if why, ok := errors.AsType[*url.Error](err); ok {
		return why.Err
	}
	return err
}

// accessKey is the access key in a signed request's header.
func accessKey(authorization string) string {
	_, rest, _ := strings.Cut(authorization, "Credential=")
	key, _, _ := strings.Cut(rest, "/")
	return key
}

// answer is an unsuccessful answer. The status is 0 for one key of a batch.
type answer struct {
	status        int
	code, message string
	header        http.Header
	key           string // the access key that the request was signed with
}

// proxy names what seems to have answered instead of the store, "" if nothing does.
// S3 and its like give each answer an identity, and errors in XML.
func (a *answer) proxy() string {
	if a.status == 0 || a.code != "" && a.status != http.StatusProxyAuthRequired && a.header.Get("X-Amz-Request-Id") != "" {
		return ""
	}
	html := strings.Contains(a.header.Get("Content-Type"), "html")
	gateway := a.status == http.StatusProxyAuthRequired || a.status == http.StatusBadGateway || a.status == http.StatusGatewayTimeout || a.status == http.StatusRequestEntityTooLarge
	if a.header.Get("X-Amz-Request-Id") != "" && !html || !html && !gateway && a.header.Get("Via") == "" {
		return ""
	}
	name := a.header.Get("Server")
	if name == "" {
		name = a.header.Get("Via")
	}
	if name == "" {
		return "a proxy on the way"
	}
	return "a proxy on the way (" + oneLine(name) + ")"
}

// permissions lists the permissions that the operations need.
var permissions = map[Op]string{
	OpGet: "s3:GetObject", OpGetRange: "s3:GetObject", OpHead: "s3:GetObject", OpPut: "s3:PutObject", OpPutIfAbsent: "s3:PutObject",
	OpList: "s3:ListBucket", OpDelete: "s3:DeleteObject", OpDeleteBatch: "s3:DeleteObject",
}

// hint says what to do about an answer whose code alone is not enough; "" if nothing
// more is known.
func (s *s3Store) hint(op Op, a *answer) string {
	switch a.code {
	case "Forbidden": // the SDK's word for an answer without one
		return fmt.Sprintf("it does not say why: the credentials are from %s, and %s is needed there", s.creds.source(), permissions[op])
	case "AccessDenied":
		return fmt.Sprintf("the policies of the credentials (from %s), or of the bucket, do not permit %s there: Glide needs GetObject, PutObject, DeleteObject and ListBucket", s.creds.source(), permissions[op])
	case "InvalidAccessKeyId", "XAdminUserNotFound", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
		return answers[a.code].hint + ", from " + s.creds.source()
	case "RequestTimeTooSkewed":
		if there, err := http.ParseTime(a.header.Get("Date")); err == nil {
			off := s.creds.now().Sub(there).Round(time.Second)
			if off < 0 {
				return fmt.Sprintf("this machine's clock is %s behind the store's: set it right", -off)
			}
			return fmt.Sprintf("this machine's clock is %s ahead of the store's: set it right", off)
		}
	}
	if region := a.header.Get("X-Amz-Bucket-Region"); region != "" && (a.status == http.StatusMovedPermanently || a.status == http.StatusTemporaryRedirect || a.code == "AuthorizationHeaderMalformed") {
		return "the bucket is in the region " + oneLine(region) + ": say region=" + oneLine(region) + " in the store's URL"
	}
	return answers[a.code].hint
}

// ofCredentials lists the codes that other credentials may fix.
var ofCredentials = map[string]bool{
	"InvalidAccessKeyId": true, "XAdminUserNotFound": true, "SignatureDoesNotMatch": true, "ExpiredToken": true, "InvalidToken": true,
	"AccessDenied": true, "Forbidden": true,
}

// refused is the error of an answer from the store, or from something before it.
func (s *s3Store) refused(ctx context.Context, op Op, key string, a answer) error {
	what := describe(a.status, a.code, a.message)
	if ofCredentials[a.code] && ctx.Err() == nil && s.creds.renew(ctx, a.key) {
		return errs.New(errs.Unavailable, "%s %s: %s refused credentials that were replaced since (%s)", op, key, s, what)
	}
	if who := a.proxy(); who != "" {
		err := errs.New(errs.Unavailable, "%s %s: not %s answers but %s: %s", op, key, s, who, what)
		if a.status >= 500 {
			return err
		}
		return persistent(err)
	}
	switch known, ok := answers[a.code]; {
	case slowDowns[a.code] || a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable:
		return marked{errs.New(errs.Unavailable, "%s %s: %s asks to slow down (%s)", op, key, s, what), ErrSlowDown}
	case ok && known.kind == errs.NotFound:
		return absent(op, key, s.String())
	case ok && known.kind == errs.Exists:
		return exists(op, key, s.String())
	case ok && known.hint != "":
		return persistent(errs.New(known.kind, "%s %s: %s refuses: %s (%s)", op, key, s, s.hint(op, &a), what))
	case ok:
		return errs.New(known.kind, "%s %s: %s refuses: %s", op, key, s, what)
	case a.status == http.StatusInsufficientStorage:
		return errs.New(errs.NoSpace, "%s %s: %s is full: %s", op, key, s, what)
	case a.status >= 500 || a.code == "InternalError" || a.status == http.StatusRequestTimeout:
		return errs.New(errs.Unavailable, "%s %s: %s failed: %s", op, key, s, what)
	case a.status == http.StatusPreconditionFailed:
		return exists(op, key, s.String())
	case a.status == http.StatusForbidden, a.status == http.StatusUnauthorized:
		return persistent(errs.New(errs.Unavailable, "%s %s: %s refuses, and does not say why (%s): the credentials are from %s, and %s is needed there",
			op, key, s, what, s.creds.source(), permissions[op]))
	case a.status >= 300 && a.status < 400:
		hint := s.hint(op, &a)
		if hint == "" {
			hint = "it is elsewhere: correct endpoint= or region= in the store's URL"
		}
		return persistent(errs.New(errs.Unavailable, "%s %s: %s sends us to another address: %s (%s)", op, key, s, hint, what))
	default:
		return errs.New(errs.Internal, "%s %s: %s refuses: %s", op, key, s, what)
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

// oneLine makes foreign text safe for an error message.
func oneLine(text string) string {
	const most = 300 // bytes; some servers answer with a page
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
