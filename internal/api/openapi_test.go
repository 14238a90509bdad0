package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// The part of OpenAPI 3.1 that the document uses.
type (
	apiDoc struct {
		OpenAPI    string                          `json:"openapi"`
		Info       json.RawMessage                 `json:"info"`
		Security   json.RawMessage                 `json:"security"`
		Paths      map[string]map[string]operation `json:"paths"`
		Components struct {
			SecuritySchemes json.RawMessage      `json:"securitySchemes"`
			Parameters      map[string]parameter `json:"parameters"`
			Responses       map[string]response  `json:"responses"`
			Schemas         map[string]schema    `json:"schemas"`
		} `json:"components"`
	}
	operation struct {
		ID          string              `json:"operationId"`
		Verb        string              `json:"x-verb"`
		Summary     string              `json:"summary"`
		Description string              `json:"description"`
		Parameters  []parameter         `json:"parameters"`
		Body        *requestBody        `json:"requestBody"`
		Responses   map[string]response `json:"responses"`
		Security    *[]json.RawMessage  `json:"security"`
	}
	parameter struct {
		Ref         string `json:"$ref"`
		Name        string `json:"name"`
		In          string `json:"in"`
		Required    bool   `json:"required"`
		Description string `json:"description"`
		Schema      schema `json:"schema"`
	}
	requestBody struct {
		Required bool               `json:"required"`
		Content  map[string]content `json:"content"`
	}
	response struct {
		Ref         string               `json:"$ref"`
		Description string               `json:"description"`
		Headers     map[string]parameter `json:"headers"`
		Content     map[string]content   `json:"content"`
	}
	content struct {
		Schema  schema          `json:"schema"`
		Example json.RawMessage `json:"example"`
	}
	schema struct {
		Ref         string            `json:"$ref"`
		Type        string            `json:"type"`
		Format      string            `json:"format"`
		Description string            `json:"description"`
		Enum        []string          `json:"enum"`
		Items       *schema           `json:"items"`
		Properties  map[string]schema `json:"properties"`
		Required    []string          `json:"required"`
		// Additional is false, or the schema of a map's values.
		Additional json.RawMessage `json:"additionalProperties"`
	}
)

func readDoc(t *testing.T) *apiDoc {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(openAPI))
	d.DisallowUnknownFields()
	var doc apiDoc
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	return &doc
}

// TestOpenAPIRoutes compares the document with the handlers, both ways.
func TestOpenAPIRoutes(t *testing.T) {
	doc := readDoc(t)
	have, ids := map[string]bool{}, map[string]bool{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			have[strings.ToUpper(method)+" "+path] = true
			if ids[op.ID] || op.ID == "" || op.Summary == "" {
				t.Errorf("%s %s: the operation %q is none of its own, or not described", method, path, op.ID)
			}
			ids[op.ID] = true
		}
	}
	for _, rt := range routes() {
		path := strings.ReplaceAll(rt.path, "...}", "}")
		key := rt.method + " " + path
		if !have[key] {
			t.Errorf("%s is served and not described", key)
			continue
		}
		delete(have, key)
		checkOperation(t, doc, rt, doc.Paths[path][strings.ToLower(rt.method)])
	}
	for key := range have {
		t.Errorf("%s is described and not served", key)
	}
}

func checkOperation(t *testing.T, doc *apiDoc, rt route, op operation) {
	t.Helper()
	where := rt.method + " " + rt.path
	var query []string
	inPath := map[string]bool{}
	for _, p := range op.Parameters {
		if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
			p = doc.Components.Parameters[name]
		}
		switch p.In {
		case "query":
			query = append(query, p.Name)
		case "path":
			inPath[p.Name] = true
		}
		if p.Description == "" || p.In == "path" && !p.Required {
			t.Errorf("%s: parameter %q is not described, or in the path and not required", where, p.Name)
		}
	}
	want := slices.Sorted(slices.Values(rt.query))
	if slices.Sort(query); !slices.Equal(query, want) {
		t.Errorf("%s: the document has the parameters %v, the handler takes %v", where, query, want)
	}
	for _, name := range []string{"name", "key"} {
		if strings.Contains(rt.path, "{"+name) != inPath[name] {
			t.Errorf("%s: parameter %s", where, name)
		}
	}
	if verb, ok := verbOf(&rt); !ok || verb.String() != op.Verb {
		t.Errorf("%s takes the verb %q, and is described with %q", where, verb, op.Verb)
	}
	if open := op.Security != nil && len(*op.Security) == 0; open != rt.open {
		t.Errorf("%s: the document says open %v, the handler %v", where, open, rt.open)
	}
	if op.Responses["default"].Ref != "#/components/responses/Error" || len(op.Responses) != 2 {
		t.Errorf("%s: one success and the error are its responses", where)
	}
	ok, found := op.Responses[fmt.Sprint(rt.status)]
	if !found || ok.Description == "" {
		t.Errorf("%s: the response %d is not described", where, rt.status)
	}
	if rt.in != nil && rt.in != reflect.TypeFor[None]() {
		if op.Body == nil {
			t.Errorf("%s: the request is not described", where)
		} else {
			checkType(t, doc, where+" request", op.Body.Content["application/json"].Schema, rt.in)
		}
	} else if op.Body != nil && op.Body.Content[ImageType].Schema.Format != "binary" {
		t.Errorf("%s: a request is described and not read", where)
	}
	if rt.out != nil && rt.out != reflect.TypeFor[None]() {
		c := ok.Content["application/json"]
		checkType(t, doc, where+" response", c.Schema, rt.out)
		checkExample(t, where, c.Example, rt.out)
	}
}

// checkExample demands that an example is exactly what the type encodes to.
func checkExample(t *testing.T, where string, example json.RawMessage, typ reflect.Type) {
	t.Helper()
	v := reflect.New(typ)
	d := json.NewDecoder(bytes.NewReader(example))
	d.DisallowUnknownFields()
	if err := d.Decode(v.Interface()); err != nil {
		t.Errorf("%s: example: %v", where, err)
		return
	}
	again, err := json.Marshal(v.Elem().Interface())
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(example, &a) != nil || json.Unmarshal(again, &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("%s: the example is\n%s\nwhat is sent is like\n%s", where, example, again)
	}
}

// checkType compares a schema with the Go type.
func checkType(t *testing.T, doc *apiDoc, where string, s schema, typ reflect.Type) {
	t.Helper()
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		if typ.Name() != name {
			t.Errorf("%s: the document has %s, the handler %s", where, name, typ)
			return
		}
		s, where = doc.Components.Schemas[name], name
	}
	bad := func(format string, args ...any) { t.Helper(); t.Errorf(where+": "+format, args...) }
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want := map[reflect.Kind]string{
		reflect.String: "string", reflect.Bool: "boolean", reflect.Float64: "number", reflect.Slice: "array", reflect.Map: "object", reflect.Struct: "object",
		reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint64: "integer",
	}[typ.Kind()]
	if typ == reflect.TypeFor[time.Time]() {
		want = "string"
		if s.Format != "date-time" {
			bad("format %q of a time", s.Format)
		}
	}
	switch {
	case s.Type != want:
		bad("type %q, want %q for %s", s.Type, want, typ)
	case want == "array":
		if s.Items == nil {
			bad("no items")
		} else {
			checkType(t, doc, where+"[]", *s.Items, typ.Elem())
		}
	case typ.Kind() == reflect.Map:
		var values schema
		if err := json.Unmarshal(s.Additional, &values); err != nil {
			bad("additionalProperties: %v", err)
		}
		checkType(t, doc, where+"{}", values, typ.Elem())
	case want == "object":
		checkStruct(t, doc, where, s, typ)
	}
}

func checkStruct(t *testing.T, doc *apiDoc, where string, s schema, typ reflect.Type) {
	t.Helper()
	if string(s.Additional) != "false" || s.Description == "" {
		t.Errorf("%s: additionalProperties %s, description %q", where, s.Additional, s.Description)
	}
	seen := map[string]bool{}
	for _, f := range reflect.VisibleFields(typ) {
		if f.Anonymous {
			continue // its fields are visible themselves
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		p, ok := s.Properties[name]
		if !ok {
			t.Errorf("%s: %s is sent and not described", where, name)
			continue
		}
		seen[name] = true
		if slices.Contains(s.Required, name) == strings.HasPrefix(opts, "omit") {
			t.Errorf("%s: %s is required in one place and not in the other", where, name)
		}
		if p.Description == "" && p.Ref == "" && f.Type.Kind() != reflect.Struct {
			t.Errorf("%s: %s has no description", where, name)
		}
		checkType(t, doc, where+"."+name, p, f.Type)
	}
	for name := range s.Properties {
		if !seen[name] {
			t.Errorf("%s: %s is described and not sent", where, name)
		}
	}
	for _, name := range s.Required {
		if !seen[name] {
			t.Errorf("%s: %s is required and unknown", where, name)
		}
	}
}

// TestOpenAPISchemas finds schemas that nothing uses, and references to none.
func TestOpenAPISchemas(t *testing.T) {
	doc := readDoc(t)
	used := map[string]bool{}
	for _, part := range strings.Split(string(openAPI), `"#/components/schemas/`)[1:] {
		used[part[:strings.IndexByte(part, '"')]] = true
	}
	if have := maps.Collect(func(yield func(string, bool) bool) {
		for name := range doc.Components.Schemas {
			if !yield(name, true) {
				return
			}
		}
	}); !maps.Equal(have, used) {
		t.Errorf("the schemas are %v, the used ones %v", have, used)
	}
	checkType(t, doc, "Error", schema{Ref: "#/components/schemas/Error"}, reflect.TypeFor[Error]())
	checkExample(t, "Error", doc.Components.Responses["Error"].Content["application/json"].Example, reflect.TypeFor[Error]())

	var kinds []string
	for k := errs.Kind(0); !strings.HasPrefix(k.String(), "kind("); k++ {
		kinds = append(kinds, k.String())
	}
	if got := doc.Components.Schemas["Error"].Properties["kind"].Enum; !slices.Equal(got, kinds) {
		t.Errorf("the kinds of errors are %v, the document has %v", kinds, got)
	}
	if got := doc.Components.Schemas["Volume"].Properties["state"].Enum; !slices.Equal(got, States) {
		t.Errorf("the states are %v, the document has %v", States, got)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", doc.OpenAPI)
	}
}
