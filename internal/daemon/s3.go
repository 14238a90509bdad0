package daemon

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// S3 is an S3 server over a directory.
type S3 struct {
	*Process
	Addr string   // where it listens
	Dir  string   // its objects, as files
	Env  []string // credentials for its clients
}

const s3Bucket = "glide"

// StartS3 starts an S3 server, whose program is versitygw, and waits until it listens.
func StartS3(ctx context.Context, program, dir string) (*S3, error) {
	const access, secret = "glide", "glidesecret"
	if err := os.MkdirAll(filepath.Join(dir, s3Bucket), 0o755); err != nil {
		return nil, err
	}
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	p, err := Start(exec.Command(program, "--port", addr, "--access", access, "--secret", secret, "--quiet", "--keep-alive", "posix", dir), nil)
	if err != nil {
		return nil, err
	}
	s := &S3{Process: p, Addr: addr, Dir: dir, Env: []string{
		"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=", "AWS_REGION=us-east-1",
		"AWS_PROFILE=", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"AWS_ENDPOINT_URL=", "AWS_ENDPOINT_URL_S3=", "AWS_EC2_METADATA_DISABLED=true",
	}}
	if err := p.WaitListening(ctx, addr, 20*time.Second); err != nil {
		p.Kill()
		return nil, err
	}
	return s, nil
}

// URL is the store for clients that reach the server at an address: Addr, or a proxy's.
func (s *S3) URL(addr string) string {
	q := url.Values{"endpoint": {"http://" + addr}, "path_style": {"true"}, "region": {"us-east-1"}}
	return "s3://" + s3Bucket + "?" + q.Encode()
}
