// Package repo holds the tests by which the repository polices itself.
package repo
