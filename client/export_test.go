package client

import "time"

// Beat makes c tell the daemon so often that an image has nothing yet.
func (c *Client) Beat(every time.Duration) { c.beat = every }
