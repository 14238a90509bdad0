package reach

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/errs"
)

// Marks makes the marks of a round in one domain, each of which adds to the last.
type Marks struct {
	*Mark  // nil before the first
	Scope  *Scope
	Memory *Memory // what earlier rounds of this process have read; may be nil
}

// Next runs the mark: the whole of it the first time, later what is new. What was listed
// can be gone when it is read, because another collector runs, too: then all is marked
// anew. What is missing twice is lost.
func (c *Marks) Next(ctx context.Context) (*Logs, error) {
	for missing := ""; ; {
		if c.Mark == nil {
			c.Mark = newMark(c.Scope, c.Memory)
		}
		l, err := c.Run(ctx)
		if err == nil {
			return l, nil
		}
		c.Mark = nil // parts of it may be missing
		c.Memory.forget()
		if !errors.Is(err, errs.NotFound) || err.Error() == missing {
			return nil, err
		}
		missing = err.Error()
	}
}
