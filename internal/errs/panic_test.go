package errs

import (
	"errors"
	"strings"
	"testing"
)

func TestCatch(t *testing.T) {
	work := func(v any) (err error) {
		defer Catch(&err)
		if v != nil {
			panic(v)
		}
		return errors.New("an error")
	}
	var p *Panic
	if err := work("no"); !errors.As(err, &p) || p.Value != "no" || !strings.Contains(string(p.Stack), "TestCatch") || KindOf(err) != Internal {
		t.Errorf("%v", err)
	}
	if err := work(nil); err == nil || err.Error() != "an error" {
		t.Errorf("%v", err)
	}
}
