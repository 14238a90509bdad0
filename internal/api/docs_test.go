package api

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

// TestDocs: the page of the API lists the routes and the kinds that there are.
// GLIDE_UPDATE=1 writes them.
func TestDocs(t *testing.T) {
	const path = "../../docs/api.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc := readDoc(t)
	table := "| route | |\n|---|---|\n"
	for _, rt := range routes() {
		p := strings.ReplaceAll(rt.path, "...}", "}")
		query := ""
		if len(rt.query) > 0 {
			query = "?" + strings.Join(rt.query, "&")
		}
		table += fmt.Sprintf("| `%s %s%s` | %s |\n", rt.method, p, query, doc.Paths[p][strings.ToLower(rt.method)].Summary)
	}
	kinds := "| kind | status | exit status |\n|---|---|---|\n"
	for k := errs.Kind(0); !strings.HasPrefix(k.String(), "kind("); k++ {
		kinds += fmt.Sprintf("| `%s` | %d | %d |\n", k, k.HTTPStatus(), k.ExitCode())
	}
	want := fill(t, fill(t, string(b), "routes", table), "kinds", kinds)
	if os.Getenv("GLIDE_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(b) {
		t.Errorf("%s does not list what there is; GLIDE_UPDATE=1 writes it", path)
	}
}

// fill replaces what stands between a mark and the next end mark.
func fill(t *testing.T, text, mark, with string) string {
	t.Helper()
	const end = "<!-- end -->\n"
	head, rest, ok := strings.Cut(text, "<!-- "+mark+" -->\n")
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("no marks for %s", mark)
	}
	return head + "<!-- " + mark + " -->\n" + with + end + tail
}
