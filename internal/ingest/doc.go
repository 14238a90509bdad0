// Package ingest turns the image of a disk into packs and a block map, as it reads it.
// The same image gives the same digest, whatever was stored of it before.
package ingest
