package objstore_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/s3test"
)

// impatient tries often and briefly.
var impatient = objstore.RetryOptions{MaxTries: 3, Backoff: time.Millisecond, SlowBackoff: time.Millisecond}

// TestS3Refuses has wrong credentials, buckets and servers, against the real
// server: each fails at once, with a line that says what to do.
func TestS3Refuses(t *testing.T) {
	store, log := s3test.Start(t)
	nowhere := "s3://glide-test?endpoint=http://127.0.0.1:1"
	for _, c := range []struct {
		name, url string
		env       map[string]string
		kind      errs.Kind
		says      string
	}{
		{"wrong secret", store, map[string]string{"AWS_SECRET_ACCESS_KEY": "wrong"}, errs.Unavailable, "the secret key does not belong to the access key"},
		{"unknown key", store, map[string]string{"AWS_ACCESS_KEY_ID": "nobody"}, errs.Unavailable, "does not know the access key"},
		{"no credentials", store, map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, errs.Unavailable, "set AWS_ACCESS_KEY_ID"},
		{"no bucket", strings.Replace(store, "glide-test", "no-such-bucket", 1), nil, errs.Unavailable, "create the bucket"},
		{"no server", nowhere, nil, errs.Unavailable, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			var counter objstore.Counter
			s := open(t, c.url, objstore.Options{Retry: impatient, Counter: &counter})
			err := s.PutIfAbsent(t.Context(), "a", []byte("data"))
			if errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v (%s)", err, errs.KindOf(err))
			}
			if n := counter.Counts().Requests(); n != 1 && c.url != nowhere {
				t.Errorf("%d requests were made", n)
			}
			if strings.Contains(fmt.Sprint(err), "testsecret") {
				t.Errorf("the message has the secret: %v", err)
			}
			t.Log(err)
		})
	}
	if _, err := os.Stat(log); err != nil {
		t.Error(err)
	}
}

// TestS3Counts compares what was counted with the server's own log.
func TestS3Counts(t *testing.T) {
	store, log := s3test.Start(t)
	lines := func() int {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(data, []byte("\n"))
	}
	before := lines()
	var counter objstore.Counter
	s := open(t, s3test.At(store, "some/prefix"), objstore.Options{Counter: &counter})
	if lines() != before {
		t.Error("opening made a request")
	}
	for i, err := range everything(t.Context(), s) {
		if err != nil && !errors.Is(err, errs.NotFound) {
			t.Errorf("request %d: %v", i, err)
		}
	}
	if err := objstore.Probe(t.Context(), s, "nonce"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got, want := lines()-before, int(counter.Counts().Requests())
		if got == want && want == 8+29 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server saw %d requests, %d were counted", got, want)
		}
	}
}

// TestS3LostAnswer loses answers of the real server.
func TestS3LostAnswer(t *testing.T) {
	store, _ := s3test.Start(t)
	var faults *objstore.Faults
	s := open(t, store, objstore.Options{Retry: impatient, Wrap: func(s objstore.Store) objstore.Store {
		faults = objstore.NewFaults(s, 1)
		return faults
	}})
	create := []objstore.Op{objstore.OpPutIfAbsent}
	faults.Inject(objstore.Fault{Ops: create, Times: 1, Effect: objstore.FailAfter})
	if err := s.PutIfAbsent(t.Context(), "log/1", []byte("mine")); err != nil {
		t.Fatal(err)
	}
	faults.Inject(objstore.Fault{Ops: create, Times: 1, Effect: objstore.FailAfter})
	if err := s.PutIfAbsent(t.Context(), "log/1", []byte("other")); !errors.Is(err, errs.Exists) {
		t.Fatal(err)
	}
}

// fake is an S3 server that answers as the test says.
func fake(t *testing.T, params string, answer http.HandlerFunc) objstore.Store {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": "", "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`) // as every S3 server does
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return open(t, "s3://bucket?endpoint="+url.QueryEscape(server.URL)+params, objstore.Options{Retry: impatient})
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: code, Message: "words of\n the server"})
}

func TestS3Answers(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		kind   errs.Kind
		tries  int32
		marker error
	}{
		{404, "NoSuchKey", errs.NotFound, 1, nil},
		{404, "NoSuchBucket", errs.Unavailable, 1, objstore.ErrPersistent},
		{409, "ConditionalRequestConflict", errs.Unavailable, 3, nil},
		{409, "ObjectParentIsFile", errs.Invalid, 1, nil},
		{412, "PreconditionFailed", errs.Exists, 1, nil},
		{503, "SlowDown", errs.Unavailable, 3, objstore.ErrSlowDown},
		{503, "ServiceUnavailable", errs.Unavailable, 3, objstore.ErrSlowDown},
		{429, "", errs.Unavailable, 3, objstore.ErrSlowDown},
		{500, "InternalError", errs.Unavailable, 3, nil},
		{502, "", errs.Unavailable, 3, nil},
		{400, "RequestTimeout", errs.Unavailable, 3, nil},
		{400, "IncompleteBody", errs.Unavailable, 3, nil},
		{501, "NotImplemented", errs.Unsupported, 1, nil},
		{507, "", errs.NoSpace, 1, nil},
		{403, "AccessDenied", errs.Unavailable, 1, objstore.ErrPersistent},
		{403, "RequestTimeTooSkewed", errs.Unavailable, 1, objstore.ErrPersistent},
		{403, "ExpiredToken", errs.Unavailable, 1, objstore.ErrPersistent},
		{403, "SomethingElse", errs.Unavailable, 1, objstore.ErrPersistent},
		{400, "InvalidArgument", errs.Internal, 1, nil},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			var tries atomic.Int32
			s := fake(t, "", func(w http.ResponseWriter, r *http.Request) {
				tries.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				refuse(w, c.status, c.code)
			})
			err := s.PutIfAbsent(t.Context(), "dir/key", []byte("data"))
			if errs.KindOf(err) != c.kind || c.marker != nil && !errors.Is(err, c.marker) || tries.Load() != c.tries {
				t.Errorf("after %d tries: %v (%s)", tries.Load(), err, errs.KindOf(err))
			}
			if !strings.Contains(err.Error(), "dir/key") || !strings.Contains(err.Error(), "s3://bucket") || strings.Contains(err.Error(), "\n") {
				t.Errorf("the message: %v", err)
			}
		})
	}
}

// TestS3Requests checks what goes out: the settings of encryption, the place of
// the bucket's name, no checksum in a trailer.
func TestS3Requests(t *testing.T) {
	var got *http.Request
	var body []byte
	s := fake(t, "&sse=aws:kms&kms_key=key-1&region=eu-central-1", func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("X-Amz-Server-Side-Encryption", "aws:kms")
		w.Header().Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", "arn:aws:kms:eu-central-1:1:key/key-1")
	})
	if err := s.PutIfAbsent(t.Context(), "a b/c", []byte("data")); err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"If-None-Match": "*", "X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key-1",
		"X-Amz-Trailer": "", "Expect": "", "Content-Encoding": "",
	} {
		if got.Header.Get(header) != want {
			t.Errorf("%s: %q, want %q", header, got.Header.Get(header), want)
		}
	}
	if got.URL.EscapedPath() != "/bucket/a%20b/c" || string(body) != "data" || !strings.Contains(got.Header.Get("Authorization"), "/eu-central-1/s3/") {
		t.Errorf("%s %s %q, %q", got.Method, got.URL, body, got.Header)
	}
	if err := s.Put(t.Context(), "a", nil); err != nil || got.Header.Get("If-None-Match") != "" {
		t.Errorf("a plain put: %v, %q", err, got.Header)
	}
}

// TestS3Encrypted: what was to be encrypted and was not is an error.
func TestS3Encrypted(t *testing.T) {
	for _, c := range []struct{ asked, how, key, want string }{
		{"", "", "", ""},
		{"&sse=AES256", "AES256", "", ""},
		{"&sse=AES256", "", "", "did not encrypt it"},
		{"&sse=AES256", "aws:kms", "k", "with aws:kms, and not"},
		{"&sse=aws:kms", "aws:kms", "arn:aws:kms:r:1:key/any", ""},
		{"&sse=aws:kms&kms_key=k1", "aws:kms", "arn:aws:kms:r:1:key/k1", ""},
		{"&sse=aws:kms&kms_key=k1", "aws:kms", "k1", ""},
		{"&sse=aws:kms&kms_key=k1", "aws:kms", "arn:aws:kms:r:1:key/xk1", "and not with kms_key=k1"},
		{"&sse=aws:kms&kms_key=k1", "aws:kms", "", "and not with kms_key=k1"},
		{"&sse=aws:kms&kms_key=alias/a", "aws:kms", "arn:aws:kms:r:1:key/k1", ""},
		{"&sse=aws:kms&kms_key=k1", "AES256", "", "with AES256, and not"},
	} {
		s := fake(t, c.asked, func(w http.ResponseWriter, _ *http.Request) {
			if c.how != "" {
				w.Header().Set("X-Amz-Server-Side-Encryption", c.how)
				w.Header().Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", c.key)
			}
		})
		for _, put := range []func(context.Context, string, []byte) error{s.Put, s.PutIfAbsent} {
			err := put(t.Context(), "key", []byte("data"))
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v: %v", c, err)
			}
		}
	}
}

// TestS3Torn breaks off, misplaces and garbles answers.
func TestS3Torn(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	var n atomic.Int32
	s := fake(t, "", func(w http.ResponseWriter, r *http.Request) {
		try := n.Add(1)
		if r.URL.Query().Has("list-type") {
			_, _ = io.WriteString(w, "<ListBucketResult><Contents><Ke")
			return
		}
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 10-19/10000")
			if try == 2 {
				w.Header().Set("Content-Range", "bytes 0-9/10000")
			}
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[10:20])
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if try == 1 {
			_, _ = w.Write(data[:5000])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(data)
	})
	if got, err := s.Get(t.Context(), "a"); err != nil || !bytes.Equal(got, data) || n.Load() != 2 {
		t.Errorf("a torn answer, then a whole one: %d bytes, %v, %d tries", len(got), err, n.Load())
	}
	n.Store(1)
	if got, err := s.GetRange(t.Context(), "a", 10, 10); err != nil || !bytes.Equal(got, data[10:20]) || n.Load() != 3 {
		t.Errorf("another range, then the right one: %q, %v, %d tries", got, err, n.Load())
	}
	n.Store(0)
	if _, err := s.List(t.Context(), "", "", 0); errs.KindOf(err) != errs.Unavailable || n.Load() != 3 {
		t.Errorf("half a list: %v, %d tries", err, n.Load())
	}
}

// TestS3Strange is a server that does not know ranges, or cannot go on with a
// list: it is refused with a reason.
func TestS3Strange(t *testing.T) {
	s := fake(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("list-type") {
			_, _ = io.WriteString(w, "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")
			return
		}
		_, _ = io.WriteString(w, "the whole object")
	})
	_, err := s.GetRange(t.Context(), "a", 0, 3)
	_, err2 := s.List(t.Context(), "", "", 0)
	for _, err := range []error{err, err2} {
		if errs.KindOf(err) != errs.Unsupported {
			t.Error(err)
		}
	}
}

// TestS3DeleteErrors has a batch of which one deletion fails.
func TestS3DeleteErrors(t *testing.T) {
	s := fake(t, "", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "<DeleteResult><Error><Key>a/2</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>")
	})
	err := s.DeleteBatch(t.Context(), []string{"a/1", "a/2"})
	if !errors.Is(err, objstore.ErrPersistent) || !strings.Contains(err.Error(), "a/2") {
		t.Error(err)
	}
}

func TestS3NoRegion(t *testing.T) {
	fake(t, "", nil) // for its environment
	if _, err := objstore.Open(t.Context(), "s3://bucket", objstore.Options{}); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "region") {
		t.Error(err)
	}
	t.Setenv("AWS_PROFILE", "no-such-profile")
	if _, err := objstore.Open(t.Context(), "s3://bucket", objstore.Options{}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}
