package volume

import (
	"os"
	"testing"

	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/seal/sealtest"
)

// local seals the logs of the volumes under test. All tests run without and with it.
var local *seal.Local

func TestMain(m *testing.M) { os.Exit(sealtest.Both(m, &local)) }
