package metrics

import (
	"os"
	"strings"
	"testing"
)

// TestDocs: the page of the API has every metric.
func TestDocs(t *testing.T) {
	const path = "../../docs/api.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range allDescriptions {
		_, name, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		if !strings.Contains(string(b), "`"+name+"`") && !strings.Contains(string(b), "`"+name+"{") {
			t.Errorf("%s does not have the metric %s", path, name)
		}
	}
}
