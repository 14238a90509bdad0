package main

import (
	"strings"
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"
)

// reports passes on what is said of reports: which functions may block is
// tested through them.
type reports struct{ *testing.T }

func (r reports) Errorf(format string, args ...any) {
	if !strings.Contains(format, "unexpected %s") || len(args) < 2 || args[1] != "fact" {
		r.T.Errorf(format, args...)
	}
}

func TestAnalyzer(t *testing.T) {
	analysistest.Run(reports{t}, analysistest.TestData(), Analyzer, module+"/locks", module+"/internal/objstore")
}
