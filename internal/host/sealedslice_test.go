package host

import (
	"os"
	"testing"

	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// TestSealedSlice runs tests of what is collected, repaired and taken back with a sealed
// tenant. GLIDE_SEALED=1 runs all tests of the package like that.
func TestSealedSlice(t *testing.T) {
	if tenantstest.Sealed() {
		t.Skip("all tests are like that")
	}
	for name, test := range map[string]func(*testing.T){
		"garbage": TestGarbageGoes, "churn": TestCollectedChurn, "beside collectors": TestCollectedMeanwhile, "second mark": TestSecondMark,
		"unreadable root": TestUnreadableRootStopsTheRound,
		"compaction":      TestCompaction, "compaction crashes": TestCompactionCrashes,
		"restore": TestRestore, "restore beside a collector": TestRestoreBesideACollector, "restore what is flagged": TestRestoreWhatIsFlagged,
		"forget": TestForgetNames,
		"scrub":  TestScrubOfAWholeStore, "slot": TestSlotDamagedAndStoreGood, "pack": TestPackMissingOrTruncated, "both": TestBothDamaged, "page": TestMapPageInTheMetadata,
		"scrub beside a collection": TestScrubBesideACollection, "verify": TestVerifiedAt,
	} {
		t.Run(name, func(t *testing.T) {
			if only := os.Getenv("GLIDE_SLICE"); only == "" || only == name {
				test(t)
			}
		})
	}
}
