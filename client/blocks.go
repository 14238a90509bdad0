package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// Blocks asks the daemon, for another host, for blocks that its SSD may have. It calls
// got with each one that came, and its number in the request. They are not verified.
func (c *Client) Blocks(ctx context.Context, r api.BlocksRequest, got func(i int, raw []byte) error) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path("blocks"), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.Header.Get("Content-Type") != api.BlocksType {
		return errs.New(errs.Unavailable, "the server at %s is not a glide daemon, or has another version: it sent no blocks", c.addr)
	}
	return api.ReadBlocks(ctx, resp.Body, &r, got)
}
