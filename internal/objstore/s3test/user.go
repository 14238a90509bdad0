package s3test

import (
	"context"
	"encoding/json"
	"net/url"
	"os/exec"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/paraglide/glide/internal/programs"
)

// Rights that a user can be given.
var (
	Read  = []string{"s3:GetObject", "s3:ListBucket"}
	Write = []string{"s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:DeleteObject"}
)

// AddUser makes a user of the server, who may do nothing yet, and returns the
// environment of a process that is to be this user. There is one such user to
// a server.
func AddUser(tb testing.TB, storeURL string) (env []string) {
	tb.Helper()
	const name, password = "reader", "readersecret"
	cmd := exec.Command(programs.Need(tb, binary), "admin", "--access", access, "--secret", secret, "--endpoint-url", endpoint(tb, storeURL),
		"create-user", "--access", name, "--secret", password, "--role", "user")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("the S3 server makes no user: %v: %s", err, out)
	}
	return []string{"AWS_ACCESS_KEY_ID=" + name, "AWS_SECRET_ACCESS_KEY=" + password}
}

// Grant gives the user of AddUser these rights, and no others.
func Grant(tb testing.TB, storeURL string, rights []string) {
	tb.Helper()
	policy, err := json.Marshal(map[string]any{
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Effect": "Allow", "Principal": map[string]any{"AWS": []string{"reader"}}, "Action": rights,
			"Resource": []string{"arn:aws:s3:::" + bucket, "arn:aws:s3:::" + bucket + "/*"},
		}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	client := s3.New(s3.Options{
		Region: "us-east-1", UsePathStyle: true, BaseEndpoint: aws.String(endpoint(tb, storeURL)),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, nil
		}),
	})
	_, err = client.PutBucketPolicy(tb.Context(), &s3.PutBucketPolicyInput{Bucket: aws.String(bucket), Policy: aws.String(string(policy))})
	if err != nil {
		tb.Fatalf("the S3 server takes no policy: %v", err)
	}
}

// endpoint is the server's address in the URL that Start made.
func endpoint(tb testing.TB, storeURL string) string {
	tb.Helper()
	u, err := url.Parse(storeURL)
	if err != nil {
		tb.Fatal(err)
	}
	return u.Query().Get("endpoint")
}
