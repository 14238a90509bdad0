package objstore

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/paraglide/glide/internal/errs"
)

const (
	// lookEvery is how often the credentials files are checked.
	lookEvery = time.Second
	// refreshBefore is how long before they expire credentials are replaced.
	refreshBefore = 5 * time.Minute
)

// credentials are those of the AWS chain, as they are now: environment, shared
// files and profiles, roles, processes, tokens of a web identity, containers,
// machines. The SDK refreshes those that expire. Files that it reads only once are
// read again here when they change, and when the store has refused their credentials.
// Old credentials stay in use until they expire if new ones are not available.
type credentials struct {
	// load starts the chain again.
	load func(ctx context.Context) (aws.CredentialsProvider, error)
	now  func() time.Time
	note func(err error) // told when new ones cannot be had; with nil when they can again

	mu      sync.Mutex
	chain   aws.CredentialsProvider
	last    aws.Credentials // that were in order
	seen    [3]fileMark
	looked  time.Time
	renewed time.Time // since the store refused them
	failing bool      // as note was told
}

// fileMark identifies one state of a file.
type fileMark struct {
	size     int64
	modified time.Time
}

// markFile is the state of a file; the zero mark is that of none.
func markFile(name string) fileMark {
	st, err := os.Stat(name)
	if err != nil {
		return fileMark{}
	}
	return fileMark{st.Size(), st.ModTime()}
}

// credentialFiles are the files that the SDK reads once: credentials, profiles, and
// the authorities that are trusted.
func credentialFiles() [3]string {
	files := [3]string{os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), os.Getenv("AWS_CONFIG_FILE"), os.Getenv(authoritiesVariable)}
	if files[0] == "" {
		files[0] = config.DefaultSharedCredentialsFilename()
	}
	if files[1] == "" {
		files[1] = config.DefaultSharedConfigFilename()
	}
	return files
}

func credentialMarks() (marks [3]fileMark) {
	for i, name := range credentialFiles() {
		marks[i] = markFile(name)
	}
	return marks
}

// newCredentials starts with the chain that was found when the store was opened.
func newCredentials(chain aws.CredentialsProvider, load func(context.Context) (aws.CredentialsProvider, error), note func(error)) *credentials {
	if note == nil {
		note = func(error) {}
	}
	return &credentials{load: load, now: time.Now, note: note, chain: chain, seen: credentialMarks()}
}

// credentialsError marks the errors of a provider, which the SDK wraps beyond
// recognition.
type credentialsError struct{ error }

// Retrieve implements aws.CredentialsProvider. It is called for each request.
func (c *credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		if marks := credentialMarks(); marks != c.seen {
			c.seen = marks
			c.begin(ctx)
		}
	}
	creds, err := c.chain.Retrieve(ctx)
	if err == nil {
		c.last = creds
		return creds, nil
	}
	if c.usable() {
		c.tell(err)
		return c.last, nil
	}
	return creds, &credentialsError{err}
}

// usable tells whether the last credentials may still be used. Under mu.
func (c *credentials) usable() bool {
	return c.last.HasKeys() && (!c.last.CanExpire || c.now().Before(c.last.Expires.Add(refreshBefore)))
}

// begin starts the chain again, if the new chain has credentials. Under mu.
func (c *credentials) begin(ctx context.Context) {
	chain, err := c.load(ctx)
	if err == nil {
		if _, err = chain.Retrieve(ctx); err == nil {
			c.chain = chain
		}
	}
	c.tell(err)
}

func (c *credentials) tell(err error) {
	if failing := err != nil; failing != c.failing || failing {
		c.failing = failing
		c.note(err)
	}
}

// renew is called after the store has refused the credentials of the access key that
// signed a request. It reads credentials again, and returns whether they are new.
func (c *credentials) renew(ctx context.Context, key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.last
	if key != "" && before.AccessKeyID != key {
		return true // they are, since
	}
	now := c.now()
	if now.Sub(c.renewed) < lookEvery {
		return false
	}
	c.renewed, c.seen = now, credentialMarks()
	c.begin(ctx)
	creds, err := c.chain.Retrieve(ctx)
	if err != nil {
		return false
	}
	c.last = creds
	return creds.AccessKeyID != before.AccessKeyID || creds.SecretAccessKey != before.SecretAccessKey || creds.SessionToken != before.SessionToken
}

// source says where the last credentials came from, for people.
func (c *credentials) source() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.Source == "" {
		return "unknown"
	}
	return c.last.Source
}

// Reload reads the credentials again, now.
func (s *s3Store) Reload(ctx context.Context) error {
	c := s.creds
	c.mu.Lock()
	defer c.mu.Unlock()
	chain, err := c.load(ctx)
	if err != nil {
		return err
	}
	if _, err := chain.Retrieve(ctx); err != nil {
		return errs.New(errs.Unavailable, "there are no credentials: %w", err)
	}
	c.chain, c.seen, c.looked = chain, credentialMarks(), c.now()
	return nil
}

// Reload makes a store, however wrapped by Open, read its credentials again.
func Reload(ctx context.Context, s Store) error {
	bare, _ := driver(s)
	if r, ok := bare.(interface{ Reload(context.Context) error }); ok {
		return r.Reload(ctx)
	}
	return nil
}
