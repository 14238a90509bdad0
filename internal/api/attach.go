package api

import (
	"context"
	"net/http"
)

// Attachment is a volume that is a block device of the daemon's machine.
type Attachment struct {
	Name          string  `json:"name"`
	Device        string  `json:"device"` // /dev/nbdN
	Size          uint64  `json:"size"`
	ReadOnly      bool    `json:"read_only"`
	TimeoutMs     float64 `json:"timeout_ms"`
	DeadTimeoutMs float64 `json:"dead_timeout_ms"`
}

// AttachRequest makes a volume a block device.
type AttachRequest struct {
	Device string `json:"device,omitempty"` // "": any that is free
	// TimeoutMs is how old a request may get before it is sent again;
	// DeadTimeoutMs how long requests wait for a daemon. 0: the usual ones.
	TimeoutMs     float64 `json:"timeout_ms,omitempty"`
	DeadTimeoutMs float64 `json:"dead_timeout_ms,omitempty"`
}

// DetachRequest names a volume or a device.
type DetachRequest struct {
	Name   string `json:"name,omitempty"`
	Device string `json:"device,omitempty"`
	Force  bool   `json:"force,omitempty"` // although it is in use, and without a sync
}

// attachRoutes are the block devices of the daemon's machine.
var attachRoutes = []route{
	handle(http.MethodPost, "/v1/volumes/{name}/attach", func(ctx context.Context, b Backend, p params, in AttachRequest) (Attachment, error) {
		return b.Attach(ctx, p.name(), in)
	}),
	// A device is not a volume's own resource: it may be all that the caller knows.
	handle(http.MethodPost, "/v1/detach", func(ctx context.Context, b Backend, _ params, in DetachRequest) (Attachment, error) {
		return b.Detach(ctx, in)
	}),
}
