package objstore

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
)

// s3Store keeps objects in a bucket of Amazon S3 or of a server that speaks its
// protocol.
type s3Store struct {
	loc    location
	creds  *credentials
	client atomic.Pointer[s3.Client] // replaced when the authorities that it trusts change
	encryption

	mu      sync.Mutex
	trusted fileMark // of the file of authorities that the client was made with
}

// openS3 opens the bucket; it makes no request to the store.
func openS3(ctx context.Context, loc location, note func(error)) (*s3Store, error) {
	cfg, err := awsConfig(ctx)
	if err != nil {
		return nil, err
	}
	s := &s3Store{loc: loc, trusted: markFile(os.Getenv(authoritiesVariable))}
	s.creds = newCredentials(cfg.Credentials, func(ctx context.Context) (aws.CredentialsProvider, error) {
		s.trustAnew(ctx)
		cfg, err := awsConfig(ctx)
		return cfg.Credentials, err
	}, note)
	client := s.newClient(cfg)
	if client.Options().Region == "" {
		return nil, badURL("no region is known for s3://%s: add ?region=REGION, or set AWS_REGION", loc.bucket)
	}
	s.client.Store(client)
	return s, nil
}

// authoritiesVariable names the file with the authorities that are trusted.
const authoritiesVariable = "AWS_CA_BUNDLE"

// awsConfig is the environment's configuration, read now.
func awsConfig(ctx context.Context) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(httpClient()), config.WithLogger(logging.Nop{}),
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = refreshBefore }))
	if err != nil {
		return cfg, errs.New(errs.Invalid, "the AWS configuration cannot be read: %w", err)
	}
	return cfg, nil
}

// newClient is a client of the store with a configuration.
func (s *s3Store) newClient(cfg aws.Config) *s3.Client {
	loc := s.loc
	if loc.region != "" {
		cfg.Region = loc.region
	}
	if loc.endpoint != "" {
		cfg.BaseEndpoint = &loc.endpoint
	}
	cfg.Credentials = s.creds
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		if o.Region == "" && o.BaseEndpoint != nil {
			o.Region = "us-east-1" // what servers other than Amazon's expect in signatures
		}
		if loc.endpoint != "" {
			o.BaseEndpoint = &loc.endpoint // before what the environment says of S3 alone
		}
		o.HTTPSignerV4 = &signer{}
		o.Retryer = aws.NopRetryer{} // Retry does that, knowing what a conditional PUT means
		o.UsePathStyle = loc.usesPathStyle(o.BaseEndpoint != nil)
		o.ContinueHeaderThresholdBytes = -1 // a round trip more for each pack
		// Slots are verified by their hashes, and read in ranges, for which
		// there are no checksums.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		if o.BaseEndpoint != nil {
			// Some servers do not know the trailers that checksums travel in.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		}
	})
}

// trustAnew makes another client if the file of authorities has changed, and tells
// whether it did. One that cannot be read leaves the old ones trusted.
func (s *s3Store) trustAnew(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mark := markFile(os.Getenv(authoritiesVariable))
	if mark == s.trusted {
		return false
	}
	s.trusted = mark
	cfg, err := awsConfig(ctx)
	if err != nil {
		s.creds.note(err)
		return false
	}
	s.client.Store(s.newClient(cfg))
	return true
}

// signer leaves out of signatures what proxies on the way may change. The SDK's
// remembers keys that it derived by the access key alone, so a new secret of the same
// one needs another.
type signer struct {
	mu     sync.Mutex
	secret string
	v4     *v4.Signer
}

// of is the SDK's signer for a secret.
func (s *signer) of(secret string) *v4.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.v4 == nil || s.secret != secret {
		s.secret = secret
		s.v4 = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	}
	return s.v4
}

// SignHTTP implements s3.HTTPSignerV4.
func (s *signer) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payload, service, region string, at time.Time, opts ...func(*v4.SignerOptions)) error {
	kept := http.Header{}
	for _, name := range []string{"Accept-Encoding", "Connection", "Te", "Via", "X-Forwarded-For"} {
		if values, ok := r.Header[name]; ok {
			kept[name] = values
			delete(r.Header, name)
		}
	}
	err := s.of(c.SecretAccessKey).SignHTTP(ctx, c, r, payload, service, region, at, opts...)
	maps.Copy(r.Header, kept)
	return err
}

// httpClient speaks HTTP/1.1 over many connections: over the one of HTTP/2, a
// pack going up would hold up every block that a guest waits for.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.ForceAttemptHTTP2 = false
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		t.MaxIdleConns = 0 // no limit but the host's
		t.MaxIdleConnsPerHost = 32
		t.MaxConnsPerHost = 256
		t.IdleConnTimeout = 60 * time.Second
		t.TLSHandshakeTimeout = 5 * time.Second
		t.ResponseHeaderTimeout = 20 * time.Second // of a request that has time for more, because much is to be moved
		t.WriteBufferSize = 32 << 10
		t.ReadBufferSize = 32 << 10
		t.DisableCompression = true
	}).WithDialerOptions(func(d *net.Dialer) {
		d.Timeout = 5 * time.Second
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
		d.Control = func(network, _ string, c syscall.RawConn) error {
			// A peer that vanished does not answer what is sent, either.
			_ = c.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(vanished.Milliseconds()))
			})
			return nil
		}
	})
}

// vanished is how long a peer may leave what was sent to it unacknowledged.
const vanished = 30 * time.Second

// String is the URL. The prefix is not the driver's: Open adds it.
func (s *s3Store) String() string {
	l := s.loc
	l.prefix = ""
	return l.String()
}

func (s *s3Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkRequest(ctx, OpGet, key); err != nil {
		return nil, err
	}
	out, err := s.client.Load().GetObject(ctx, &s3.GetObjectInput{Bucket: &s.loc.bucket, Key: &key})
	if err != nil {
		return nil, s.fail(ctx, OpGet, key, err)
	}
	defer func() { _ = out.Body.Close() }()
	if out.ETag == nil {
		return nil, s.noStore(OpGet, key)
	}
	if out.ContentLength == nil {
		return s.readChunks(key, out)
	}
	size := *out.ContentLength
	if size > MaxObject {
		return nil, tooBig(key, s.String(), size)
	}
	return s.readBody(ctx, OpGet, key, out.Body, size)
}

func (s *s3Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := checkRange(ctx, key, off, n); err != nil {
		return nil, err
	}
	out, err := s.client.Load().GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.loc.bucket, Key: &key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1)),
	})
	if err != nil {
		if apiCode(err) == "InvalidRange" {
			return nil, errs.New(errs.Corrupt, "%s %s: the object in %s ends before byte %d", OpGetRange, key, s, off)
		}
		return nil, s.fail(ctx, OpGetRange, key, err)
	}
	defer func() { _ = out.Body.Close() }()
	var first, last, size int64
	if _, err := fmt.Sscanf(aws.ToString(out.ContentRange), "bytes %d-%d/%d", &first, &last, &size); err != nil {
		return nil, errs.New(errs.Unsupported, "%s %s: %s answers a ranged read without saying which range (Content-Range: %q)",
			OpGetRange, key, s, aws.ToString(out.ContentRange))
	}
	if off+n > size {
		return nil, tooShort(key, s.String(), size, off, n)
	}
	if first != off || last != off+n-1 {
		return nil, errs.New(errs.Unavailable, "%s %s: %s answered bytes %d to %d instead of %d to %d",
			OpGetRange, key, s, first, last, off, off+n-1)
	}
	return s.readBody(ctx, OpGetRange, key, out.Body, n)
}

// readChunks reads an answer without a length, as some proxies make them: it is
// whole if it comes in chunks, of which the last one is marked.
func (s *s3Store) readChunks(key string, out *s3.GetObjectOutput) ([]byte, error) {
	raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response)
	if !ok || !slices.Contains(raw.TransferEncoding, "chunked") {
		return nil, errs.New(errs.Unsupported, "get %s: %s answers without a Content-Length, so that nobody can tell whether all of the object came: "+
			"reach it without the proxy that takes it away, or have that speak HTTP/1.1", key, s)
	}
	buf, err := io.ReadAll(io.LimitReader(out.Body, MaxObject+1))
	switch {
	case err != nil:
		return nil, errs.New(errs.Unavailable, "get %s: torn read, the answer of %s broke off after %d bytes: %w", key, s, len(buf), err)
	case len(buf) > MaxObject:
		return nil, tooBig(key, s.String(), int64(len(buf)))
	}
	return buf, nil
}

// noStore is the error of an answer that is a success, and yet none of S3's: such
// as the page of a network that wants a login.
func (s *s3Store) noStore(op Op, key string) error {
	return persistent(errs.New(errs.Unavailable, "%s %s: what answers at %s is no S3 server (its answer has no ETag): check the address, and what lies between", op, key, s))
}

// readBody reads exactly n bytes; fewer are a torn answer, which Retry mends.
func (s *s3Store) readBody(ctx context.Context, op Op, key string, body io.Reader, n int64) ([]byte, error) {
	buf := make([]byte, n)
	got, err := io.ReadFull(body, buf)
	switch {
	case err == nil:
		return buf, nil
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return nil, errs.New(errs.Unavailable, "%s %s: torn read, the answer of %s broke off after %d of %d bytes", op, key, s, got, n)
	default:
		return nil, s.fail(ctx, op, key, err)
	}
}

func (s *s3Store) Put(ctx context.Context, key string, data []byte) error {
	return s.put(ctx, OpPut, key, data, nil)
}

func (s *s3Store) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return s.put(ctx, OpPutIfAbsent, key, data, aws.String("*"))
}

func (s *s3Store) put(ctx context.Context, op Op, key string, data []byte, ifNoneMatch *string) error {
	if err := checkPut(ctx, op, key, data); err != nil {
		return err
	}
	enc, err := s.encryption.of(key, s.loc.encryption())
	if err != nil {
		return err
	}
	in := &s3.PutObjectInput{
		Bucket: &s.loc.bucket, Key: &key,
		Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		IfNoneMatch: ifNoneMatch, ServerSideEncryption: types.ServerSideEncryption(enc.Mode),
	}
	if enc.KMSKey != "" {
		in.SSEKMSKeyId = &enc.KMSKey
	}
	if enc.BucketKey {
		in.BucketKeyEnabled = &enc.BucketKey
	}
	switch s.loc.checksum {
	case checksumCRC32C:
		sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
		in.ChecksumCRC32C = aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum)))
	case checksumMD5:
		sum := md5.Sum(data)
		in.ContentMD5 = aws.String(base64.StdEncoding.EncodeToString(sum[:]))
	}
	out, err := s.client.Load().PutObject(ctx, in)
	if err != nil {
		return s.fail(ctx, op, key, err)
	}
	if out.ETag == nil {
		return s.noStore(op, key)
	}
	return enc.check(op, key, s, out)
}

func (s *s3Store) Head(ctx context.Context, key string) (Info, error) {
	if err := checkRequest(ctx, OpHead, key); err != nil {
		return Info{}, err
	}
	out, err := s.client.Load().HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.loc.bucket, Key: &key})
	if err != nil {
		return Info{}, s.fail(ctx, OpHead, key, err)
	}
	if out.ETag == nil {
		return Info{}, s.noStore(OpHead, key)
	}
	return Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), Version: *out.ETag}, nil
}

// List makes one request where the store fills its pages, as Amazon's does.
func (s *s3Store) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	if err := checkContext(ctx, OpList, prefix); err != nil {
		return nil, err
	}
	limit = listLimit(limit)
	in := &s3.ListObjectsV2Input{Bucket: &s.loc.bucket, Prefix: &prefix}
	if after != "" {
		in.StartAfter = &after
	}
	var infos []Info
	for {
		in.MaxKeys = aws.Int32(int32(limit - len(infos)))
		out, err := s.client.Load().ListObjectsV2(ctx, in)
		if err != nil {
			return nil, s.fail(ctx, OpList, prefix, err)
		}
		if out.Name == nil && out.IsTruncated == nil && out.KeyCount == nil {
			return nil, persistent(errs.New(errs.Unavailable, "list %s: what answers at %s is no S3 server (its answer is no list): check the address, and what lies between", prefix, s))
		}
		for _, o := range out.Contents {
			infos = append(infos, Info{Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified), Version: aws.ToString(o.ETag)})
		}
		if len(infos) >= limit || !aws.ToBool(out.IsTruncated) {
			return infos, nil
		}
		if aws.ToString(out.NextContinuationToken) == "" {
			return nil, errs.New(errs.Unsupported, "list %s: %s cuts a list short and does not say how to go on", prefix, s)
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

func (s *s3Store) Delete(ctx context.Context, key string) error {
	if err := checkRequest(ctx, OpDelete, key); err != nil {
		return err
	}
	_, err := s.client.Load().DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.loc.bucket, Key: &key})
	if err == nil {
		return nil
	}
	if err := s.fail(ctx, OpDelete, key, err); !errors.Is(err, errs.NotFound) {
		return err
	}
	return nil
}

func (s *s3Store) DeleteBatch(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		some := keys[:min(len(keys), batch)]
		keys = keys[len(some):]
		if err := s.deleteSome(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// deleteSome removes at most a thousand objects with one request.
func (s *s3Store) deleteSome(ctx context.Context, keys []string) error {
	objects := make([]types.ObjectIdentifier, len(keys))
	for i := range keys {
		if err := checkRequest(ctx, OpDeleteBatch, keys[i]); err != nil {
			return err
		}
		objects[i].Key = &keys[i]
	}
	out, err := s.client.Load().DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: &s.loc.bucket, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)},
	}, func(o *s3.Options) {
		if s.loc.checksum == checksumMD5 {
			o.APIOptions = append(o.APIOptions, smithyhttp.AddContentChecksumMiddleware)
		}
	})
	if err != nil {
		return s.fail(ctx, OpDeleteBatch, batchName(keys), err)
	}
	for _, e := range out.Errors {
		if code := aws.ToString(e.Code); code != "NoSuchKey" {
			return s.refused(ctx, OpDeleteBatch, aws.ToString(e.Key), answer{code: code, message: aws.ToString(e.Message)})
		}
	}
	return nil
}
