// Package kmstest runs a key management service with the API of AWS KMS for tests, on the
// loopback interface: the program localkms, which `make tools` builds.
package kmstest

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/programs"
)

// Server is a service that a test can kill and start again.
type Server struct {
	URL    string
	Client *kms.Client // the administrator's

	tb   testing.TB
	bin  string
	addr string
	dir  string
	proc *daemon.Process
}

// Start starts a service without keys, and sets the AWS environment of the process up
// for it (so the test cannot be parallel). It is stopped when the test ends. Package
// programs decides what happens if it is not installed.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, bin: programs.Need(tb, "localkms"), dir: tb.TempDir()}
	tb.Cleanup(s.Kill)
	var err error
	for range 5 { // a free port may be taken by the time the server wants it
		if s.addr, err = daemon.FreeAddr(); err != nil {
			tb.Fatal(err)
		}
		if err = s.start(); err == nil {
			break
		}
	}
	if err != nil {
		tb.Fatalf("the KMS does not start: %v", err)
	}
	s.URL = "http://" + s.addr
	for _, v := range append(s3test.Environment(), "AWS_ENDPOINT_URL_KMS="+s.URL) {
		name, value, _ := strings.Cut(v, "=")
		tb.Setenv(name, value)
	}
	s.Client = kms.New(kms.Options{
		Region: "us-east-1", BaseEndpoint: &s.URL, Credentials: credentials.NewStaticCredentialsProvider("admin", "secret", ""),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true }),
	})
	return s
}

func (s *Server) start() error {
	p, err := daemon.Start(exec.Command(s.bin, "-listen", s.addr, "-data", s.dir), nil)
	if err != nil {
		return err
	}
	if err := p.WaitListening(context.Background(), s.addr, 20*time.Second); err != nil {
		p.Kill()
		return err
	}
	s.proc = p
	return nil
}

// Kill is kill -9 of the service; its keys stay.
func (s *Server) Kill() {
	if s.proc != nil {
		s.proc.Kill()
		s.proc = nil
	}
}

// Restart starts a service again that was killed, with its keys.
func (s *Server) Restart() {
	s.tb.Helper()
	if err := s.start(); err != nil {
		s.tb.Fatalf("the KMS does not start again: %v", err)
	}
}

// NewKey makes a symmetric key and returns its ARN.
func (s *Server) NewKey() string {
	s.tb.Helper()
	out, err := s.Client.CreateKey(s.tb.Context(), &kms.CreateKeyInput{})
	if err != nil {
		s.tb.Fatal(err)
	}
	return aws.ToString(out.KeyMetadata.Arn)
}
