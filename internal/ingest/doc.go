// Package ingest turns a disk image into packs and a block map while it reads the image.
// The same image always gives the same digest, whatever the store already has of it.
package ingest
