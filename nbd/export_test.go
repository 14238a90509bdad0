package nbd

// LimitStalled returns o with a limit of its own, in bytes, for what waits for
// stalled local clients.
func LimitStalled(o Options, bytes int64) Options {
	o.maxStalled = bytes
	return o
}
