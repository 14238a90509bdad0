# Everything a machine with Go and Debian's packages needs to build, test and
# show Glide. `make help` lists the targets.

GO      ?= go
BIN     := bin
CACHE   := $(CURDIR)/.cache
TOOLS   := $(CACHE)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
LDFLAGS := -s -w -X main.version=$(VERSION)
export GLIDE_TOOLS := $(TOOLS)

# What tests and the demo run: NBD clients and servers, and a VM with a Debian guest.
PACKAGES := qemu-system-x86 qemu-utils fio nbdkit libnbd-bin nbd-client debootstrap btrfs-progs \
            linux-image-cloud-amd64 e2fsprogs zstd cpio busybox-static iproute2 ca-certificates curl

.PHONY: help build check test race fuzz bench bench-check bench-dedup bench-sealed e2e sealed soak faults simulate demo deps tools generate clean

help: ## list the targets; times are for two cores, when deps and tools are there
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13

build: ## one static binary, bin/glide (5 s)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/glide ./cmd/glide

deps: ## install the Debian packages that tests and the demo use (1 min, once)
	@missing=""; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing:$$missing"; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

tools: $(TOOLS)/versitygw $(TOOLS)/localkms $(TOOLS)/staticcheck $(TOOLS)/nonblocking ## build the S3 server and the KMS of the tests, and the linters (1 min, once)

$(TOOLS)/%: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	@echo "building $*"
	@cd tools && $(GO) build -o $@ $$($(GO) list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' tool | grep -E '/$*$$')

$(TOOLS)/nonblocking: $(wildcard tools/nonblocking/*.go)
$(TOOLS)/localkms: $(wildcard tools/localkms/*.go)

check: tools ## formatting, vet, lint, locks, and what the repository demands of itself (1 min)
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags invariants ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/staticcheck -tags invariants ./...
	$(GO) vet -vettool=$(TOOLS)/nonblocking ./...
	cd tools && $(GO) test ./nonblocking
	$(GO) test ./internal/repo

# Many tests wait for guests, servers and timeouts: three packages at a time keep two cores busy.
# Those with real daemons and guests measure what is promised in seconds: they run apart.
test: deps tools build ## all tests (15 to 30 min)
	GLIDE_BIN=$(CURDIR)/$(BIN)/glide $(GO) test -tags invariants -p 3 -timeout 25m $$($(GO) list ./... | grep -vE "internal/(e2e|guest)$$")
	GLIDE_BIN=$(CURDIR)/$(BIN)/glide $(GO) test -tags invariants -p 2 -timeout 20m ./internal/e2e ./internal/guest

race: deps tools ## the tests, and the daemon that they run, under the race detector (30 min)
	$(GO) build -race -tags invariants -o $(BIN)/glide-race ./cmd/glide
	GORACE=halt_on_error=1 GLIDE_BIN=$(CURDIR)/$(BIN)/glide-race $(GO) test -race -tags invariants -short -timeout 40m -skip 'Memory|SyncLatency' ./...

fuzz: ## every fuzz target for FUZZTIME, by default 30 s (16 min)
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$p/*_test.go | cut -d' ' -f2); do \
	    echo "$$p $$f"; $(GO) test -run xxx -fuzz "^$$f\$$" -fuzztime $(or $(FUZZTIME),30s) -fuzzminimizetime 2s $$p || exit 1; done; done

bench: deps build ## throughput and latency beside nbdkit and qemu-nbd: a table, bin/bench.json and bin/bench.svg; memory (15 min)
	$(GO) run ./internal/bench -glide $(BIN)/glide -seconds $(or $(SECONDS_EACH),4) -out $(BIN)/bench
	GLIDE_BIN=$(CURDIR)/$(BIN)/glide GLIDE_LONG=1 $(GO) test -count=1 -v -timeout 30m -run Memory ./internal/e2e

bench-dedup: deps build ## what FORKS= forks of a Debian disk, by default 10, share with the same packages installed in each; as root (10 to 30 min)
	$(SUDO) env PATH="$$PATH" $(GO) run ./internal/bench/dedup -glide $(BIN)/glide -cache $(CACHE) -forks $(or $(FORKS),10)

bench-sealed: deps tools build ## what keys of a tenant, and of the host, cost, over having none: DIR=, SIZE= and PAIRS= of the runs (15 min)
	@for what in sealed local rekey; do \
	  $(GO) run ./internal/bench -glide $(BIN)/glide -only $$what $(if $(DIR),-dir $(DIR)) $(if $(SIZE),-size $(SIZE)) $(if $(PAIRS),-pairs $(PAIRS)) || exit 1; done

bench-check: deps build ## the ratios to nbdkit file, against those in docs/bench.json: a quarter lower fails (6 min)
	$(GO) run ./internal/bench -glide $(BIN)/glide -peers file -check docs/bench.json

e2e: deps tools build ## the tests with real daemons and a real S3 server (3 to 5 min)
	GLIDE_BIN=$(CURDIR)/$(BIN)/glide $(GO) test -v -timeout 20m ./internal/e2e

sealed: ## the tests of the host, and the demo, with every tenant sealed, and 1,000 seeds of a store that lies (10 to 20 min)
	GLIDE_SEALED=1 $(GO) test -count=1 -tags invariants -timeout 30m -skip TestHostileStore ./internal/host
	GLIDE_MALICE=$(or $(SEEDS),1-1000) $(GO) test -count=1 -tags invariants -timeout 6h -run TestHostileStore ./internal/host
	$(MAKE) --no-print-directory demo SEALED=1

soak: deps tools build ## bad days, long crash tests and 10,000 seeds of the simulator: SOAK= time for each test, by default 1h (hours)
	GLIDE_BIN=$(CURDIR)/$(BIN)/glide GLIDE_LONG=1 GLIDE_SOAK=$(or $(SOAK),1h) $(GO) test -v -timeout 24h -run 'Soak|Churn|MarkReads|MarkMemory|LossWindow|BadDay|Thousand|ChainOfForks|HugeMap|Explore' ./internal/e2e ./internal/volume ./internal/host ./internal/blockmap ./internal/gc
	$(MAKE) --no-print-directory simulate

faults: ## plant deliberate faults in the engine, and run the simulator until it catches each: FAULTS=NAME,NAME (6 to 10 min)
	$(GO) test -count=1 -tags invariants -v -timeout 6h -run 'TestFaults$$' ./internal/sim -sim.faults=$(or $(FAULTS),all)

simulate: ## the simulator: SEEDS=FROM-TO, by default 1-10000 (4 to 6 min)
	$(GO) test -count=1 -tags invariants -v -timeout 6h -run 'TestSim$$' ./internal/sim -sim.seed=$(or $(SEEDS),1-10000)

demo: deps build ## the main job, end to end: IMAGE=path for your own disk, STORE=s3 for the S3 server, SEALED=1 with keys (1 min; the first time 3)
	@[ "$(STORE)" != s3 ] || $(MAKE) --no-print-directory tools
	$(GO) run ./internal/demo -glide $(BIN)/glide -cache $(CACHE) -image "$(IMAGE)" -store "$(or $(STORE),file)" $(if $(SEALED),-sealed)

clean: ## remove what was built
	rm -rf $(BIN) $(CACHE)
