package keys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// kmsKey is a key of AWS KMS. Credentials, and an endpoint other than Amazon's
// (AWS_ENDPOINT_URL_KMS), come from the environment, which is read at each call: there is
// one for each domain that a process opens.
type kmsKey struct{ arn, region string }

func parseKMS(arn string) (Provider, error) {
	parts := strings.Split(arn, ":")
	if len(parts) != 6 || parts[0] != "arn" || parts[2] != "kms" || parts[3] == "" ||
		!strings.HasPrefix(parts[5], "key/") && !strings.HasPrefix(parts[5], "alias/") {
		return nil, errs.New(errs.Invalid, "not the ARN of a key: say kms:arn:aws:kms:REGION:ACCOUNT:key/ID")
	}
	return &kmsKey{arn, parts[3]}, nil
}

// String implements Provider.
func (k *kmsKey) String() string { return kindKMS + ":" + k.arn }

// Kind implements Provider.
func (*kmsKey) Kind() string { return kindKMS }

func (k *kmsKey) client(ctx context.Context) (*kms.Client, error) {
	// One call needs no connection afterwards.
	transport := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	retries := func() aws.Retryer {
		// The SDK waits for up to 20 s between its three attempts, which are to fit into the limit.
		return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Second })
	}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(k.region), config.WithHTTPClient(transport), config.WithRetryer(retries), config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, locked(ErrAway, "%v: the AWS configuration cannot be read: %w", k, err)
	}
	return kms.NewFromConfig(cfg), nil
}

// purpose is the encryption context: it is authenticated, and logged in clear by
// CloudTrail, so it has no names.
func purpose(domain uint32) map[string]string {
	return map[string]string{"glide:domain": fmt.Sprintf("%08x", domain)}
}

// Wrap implements Provider.
func (k *kmsKey) Wrap(ctx context.Context, domain uint32, kek seal.Key) (Wrap, error) {
	client, err := k.client(ctx)
	if err != nil {
		return Wrap{}, err
	}
	out, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: &k.arn, Plaintext: kek.Append(nil), EncryptionContext: purpose(domain)})
	if err != nil {
		return Wrap{}, k.fail(err)
	}
	return Wrap{Kind: kindKMS, ID: k.arn, Blob: out.CiphertextBlob}, nil
}

// Unwrap implements Provider.
func (k *kmsKey) Unwrap(ctx context.Context, domain uint32, w Wrap) (seal.Key, error) {
	if w.ID != k.arn {
		return seal.Key{}, locked(ErrWrongKey, "the keyring is wrapped for %.200s, not for %v: name that key", w, k)
	}
	client, err := k.client(ctx)
	if err != nil {
		return seal.Key{}, err
	}
	out, err := client.Decrypt(ctx, &kms.DecryptInput{KeyId: &k.arn, CiphertextBlob: w.Blob, EncryptionContext: purpose(domain)})
	if err != nil {
		return seal.Key{}, k.fail(err)
	}
	key, err := seal.KeyOf(out.Plaintext)
	if err != nil {
		return seal.Key{}, locked(ErrWrongKey, "%v opens something that is no key", k)
	}
	return key, nil
}

// answers gives the meaning of the codes of KMS that are an answer. Everything else is a
// service that is away: also credentials that expired, which is not a decision of the
// key's owner.
var answers = map[string]struct {
	mark error
	hint string
}{
	"AccessDeniedException":         {ErrDenied, "the key's policy does not allow it: grant kms:Encrypt and kms:Decrypt to this host"},
	"DisabledException":             {ErrDenied, "the key is disabled: enable it"},
	"KMSInvalidStateException":      {ErrDenied, "the key is going to be deleted, or not ready: cancel its deletion"},
	"NotFoundException":             {ErrDenied, "there is no such key: it was deleted, or is another account's or region's"},
	"InvalidArnException":           {ErrDenied, "there is no such key: correct its ARN"},
	"InvalidKeyUsageException":      {ErrDenied, "the key is not for encryption: name a symmetric one"},
	"InvalidGrantTokenException":    {ErrDenied, "the grant is not valid: make a new one"},
	"UnrecognizedClientException":   {ErrDenied, "the access key does not exist: give this host new credentials"},
	"InvalidClientTokenId":          {ErrDenied, "the access key does not exist: give this host new credentials"},
	"InvalidCiphertextException":    {ErrWrongKey, "the keyring was wrapped with another key, or for another domain, or its wrap was changed"},
	"IncorrectKeyException":         {ErrWrongKey, "the keyring was wrapped with another key: an alias may have moved"},
	"ExpiredTokenException":         {ErrAway, "this host's credentials have expired: renew them"},
	"InvalidSignatureException":     {ErrAway, "the secret key does not belong to the access key, or the clock is wrong: correct them"},
	"IncompleteSignature":           {ErrAway, "the secret key does not belong to the access key: correct it"},
	"KeyUnavailableException":       {ErrAway, "the key cannot be used now"},
	"ThrottlingException":           {ErrAway, "it asks for fewer requests"},
	"LimitExceededException":        {ErrAway, "it asks for fewer requests"},
	"DependencyTimeoutException":    {ErrAway, "something behind it does not answer"},
	"KMSInternalException":          {ErrAway, "it failed"},
	"MissingAuthenticationToken":    {ErrAway, "this host has no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"},
	"XksKeyNotFoundException":       {ErrDenied, "the key store outside AWS does not have the key"},
	"XksProxyUriUnreachable":        {ErrAway, "the key store outside AWS does not answer"},
	"CloudHsmClusterNotActive":      {ErrAway, "the HSM behind it does not answer"},
	"UnsupportedOperationException": {ErrDenied, "the key does not do that: name a symmetric one"},
}

// fail says what KMS answered, and what to do.
func (k *kmsKey) fail(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code := api.ErrorCode()
		if a, ok := answers[code]; ok {
			return locked(a.mark, "%v: %s (%s)", k, a.hint, code)
		}
		return locked(ErrAway, "%v answers %s: %s", k, code, oneLine(api.ErrorMessage()))
	}
	if canceled, ok := errors.AsType[*aws.RequestCanceledError](err); ok {
		return locked(ErrAway, "%v did not answer in time: check that it can be reached: %w", k, canceled.Err)
	}
	// The SDK wraps what is wrong in several layers, of which the inmost two say it.
	if send, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		err = send.Err
	} else if op, ok := errors.AsType[*smithy.OperationError](err); ok {
		err = op.Err
	}
	return locked(ErrAway, "%v does not answer: check the network and this host's credentials (%s)", k, oneLine(err.Error()))
}

// oneLine shortens what others say.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}
