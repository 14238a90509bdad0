package host

import (
	"os"
	"testing"

	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// TestSealedSlice runs tests of what is collected, repaired, taken back, opened elsewhere and
// read ahead with a sealed tenant. GLIDE_SEALED=1 runs all tests of the package like that.
func TestSealedSlice(t *testing.T) {
	if tenantstest.Sealed() {
		t.Skip("all tests are like that")
	}
	for name, test := range map[string]func(*testing.T){
		"garbage": TestGarbageGoes, "churn": TestCollectedChurn, "beside collectors": TestCollectedMeanwhile, "second mark": TestSecondMark,
		"unreadable root": TestUnreadableRootStopsTheRound,
		"compaction":      TestCompaction, "compaction crashes": TestCompactionCrashes,
		"restore": TestRestore, "restore what is flagged": TestRestoreWhatIsFlagged,
		"forget": TestForgetNames,
		"scrub":  TestScrubOfAWholeStore, "slot": TestSlotDamagedAndStoreGood, "pack": TestPackMissingOrTruncated, "both": TestBothDamaged, "page": TestMapPageInTheMetadata,
		"scrub beside a collection": TestScrubBesideACollection, "verify": TestVerifiedAt,
		"boot list": TestBootList, "boot here": TestBootHere, "boot elsewhere": TestBootElsewhere, "boot list names what is gone": TestBootListNamesWhatIsGone,
		"prefetch off": TestPrefetchOff, "bulk": TestBulkIsUploadedOnce, "bulk without packs": TestBulkWithoutPacks, "lost pack of a data commit": TestLostPackOfADataCommit,
		"takeover during an upload": TestTakeoverDuringAnUpload, "hydrate": TestHydrate, "older store": TestOlderStore,
		"hidden": TestHiddenIsNotTaken, "dead owner": TestDeadOwner, "woken under another name": TestWokenUnderAnotherName,
		"rollback while shipping": TestRollbackWhileShipping, "rename in use": TestRenameOfAVolumeInUse, "copy": TestTwoHostsOfOneIdentity, "busy owner": TestForceAgainstABusyOwner,
		"released then sealed": TestReleasedThenSealed, "promise": TestSyncSurvivesTheHost, "flush, fork and back": TestFlushForkElsewhereAndBack, "import": TestImport,
	} {
		t.Run(name, func(t *testing.T) {
			if only := os.Getenv("GLIDE_SLICE"); only == "" || only == name {
				test(t)
			}
		})
	}
}
