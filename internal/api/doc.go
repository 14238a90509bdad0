// Package api is the control API: HTTP and JSON, one route for each verb of the
// command line, described by an OpenAPI document that a test compares with the
// handlers. Handlers translate; what a verb does is the Backend's.
package api
