// Package latency counts how long requests take, in histograms.
package latency
