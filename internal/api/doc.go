// Package api is the control API: HTTP and JSON, with one route for each command of
// the command line. A test compares the handlers with the OpenAPI document. Handlers
// only translate; the Backend does the work.
package api
