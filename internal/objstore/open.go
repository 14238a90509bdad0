package objstore

import "context"

// Options say how Open sets a store up. The zero value has the defaults.
type Options struct {
	// Counter, if set, counts every request that is made, tries included.
	Counter *Counter
	// Retry bounds the tries.
	Retry RetryOptions
	// OnCredentials, if set, is told when new credentials cannot be had, while the
	// old ones stay in use, and with nil when they can again.
	OnCredentials func(error)
	// Wrap, if set, is applied to the bare driver, below counting and
	// retries: the place for Latency and Faults.
	Wrap func(Store) Store
}

// Open opens the store at a URL: file:///DIR (made if missing),
// s3://BUCKET[/PREFIX] with the parameters endpoint, region, path_style, sse,
// kms_key, checksum and installation, or mem:// (empty and private, for tests). Requests are counted
// and retried. It makes no request to an S3 store; use Probe before relying on
// one. A bad URL is a errs.Invalid that says what is wrong.
func Open(ctx context.Context, url string, opts Options) (Store, error) {
	loc, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	s, err := openDriver(ctx, loc, opts)
	if err != nil {
		return nil, err
	}
	if opts.Wrap != nil {
		s = opts.Wrap(s)
	}
	counter := opts.Counter
	if counter == nil {
		counter = &Counter{} // those of contexts count in any case
	}
	s = Retry(listChecked{Count(s, counter)}, opts.Retry)
	if loc.prefix != "" {
		s = Prefix(s, loc.prefix)
	}
	return s, nil
}

func openDriver(ctx context.Context, loc location, opts Options) (Store, error) {
	switch loc.scheme {
	case schemeFile:
		return openFile(osFiles{}, loc.dir, opts.Retry.Clock)
	case schemeS3:
		return openS3(ctx, loc, opts.OnCredentials)
	default:
		return NewMem(opts.Retry.Clock), nil
	}
}

// driver is the store that Open's wrappers are around, and the prefix of its keys.
func driver(s Store) (bare Store, prefix string) {
	for {
		switch w := s.(type) {
		case *retrying:
			s = w.Store
		case listChecked:
			s = w.Store
		case *counting:
			s = w.Store
		case *prefixed:
			s, prefix = w.Store, w.prefix+prefix
		default:
			return s, prefix
		}
	}
}
