package api

import _ "embed" // the document is a file, so that tools can read it

// openAPI describes every route. A test compares it with the handlers and types.
//
//go:embed openapi.json
var openAPI []byte
