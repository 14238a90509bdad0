// Package cleaner keeps the log within its budget. It copies the live data out of mostly
// dead segments, flushes volumes that exceed their dirty budget, and slows writers down
// before the log is full.
//
// It holds Table.Cleaning from the choice of segments until they are cleaned, and Disk.Op
// to flush. Its state is atomic. All methods may be called concurrently.
package cleaner
