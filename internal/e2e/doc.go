// Package e2e tests the glide binary as a user runs it: real daemons, real NBD
// clients, a real S3 server. GLIDE_BIN names the binary; `make e2e` and
// `make test` build and set it.
package e2e
