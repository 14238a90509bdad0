// Package cleaner keeps the log within its budget: it copies what is live out of
// segments that are mostly dead, flushes volumes that hold more than they may, and
// slows writers down before they meet a full log.
//
// It takes Table.Cleaning from the choice of segments until they are cleaned, and
// Disk.Op to flush. Its state is atomic; any goroutine may call.
package cleaner
