# make demo and make test are all there is to set up: they need Go and nothing else.
GO ?= go
GOLANGCI_LINT ?= golangci-lint
COUNT ?= 1
# A number of inputs (500x), not a time (5s): the end of a time can cut an input off, which Go reports as a failure.
FUZZTIME ?= 500x
# Of the simulation: how many runs, and the seed of the first.
SEEDS ?= 300
FIRST ?= 1
# Of the mistakes: into how many parts they are divided, and which part is tried.
OF ?= 1
PART ?= 0
# Which benchmarks (a regular expression).
BENCH ?= .
benched = $$(grep -l '^func Benchmark' $$($(GO) list -f '{{.Dir}}/*_test.go' ./...) 2>/dev/null | xargs -n 1 dirname | sort -u)
# Of a release. Where git doesn't know them, say VERSION=v1.2.3 SOURCE_DATE_EPOCH=1700000000.
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
VERSION ?= $(shell git describe --tags --always --dirty)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)

.PHONY: help demo build test check lint bench bench-peers performance fuzz sim mistakes model release

help:
	@echo 'make demo    a fleet of processes on an embedded Redis and a scripted token endpoint'
	@echo 'make test    the tests; those about a real Redis run where redis-server is installed'
	@echo 'make check   format, vet, lint, test'
	@echo 'make lint    golangci-lint'
	@echo 'make bench   the benchmarks, and how they compare with the goals; some of them: BENCH=Transport'
	@echo 'make bench-peers  others and ours side by side, in brief; make performance: all of docs/performance.md, measured anew'
	@echo 'make fuzz    the fuzz targets, FUZZTIME=$(FUZZTIME) each'
	@echo 'make sim     a simulated fleet with faults, SEEDS=$(SEEDS) runs from seed FIRST=$(FIRST) on'
	@echo 'make mistakes  the simulation must find each of three dozen mistakes made on purpose; a part: OF=3 PART=0'
	@echo 'make model   the model of the protocol, checked with spin'
	@echo 'make build   bin/onetoken and bin/worker'
	@echo 'make release dist/: an archive for each of PLATFORMS, VERSION from git, and SHA256SUMS'

demo: build
	@bin/onetoken demo --worker bin/worker

build:
	@$(GO) build -o bin/ ./cmd/...

# The same commit and the same Go give the same bytes.
release:
	@rm -rf dist
	@SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' $(GO) run ./internal/release -out dist -version '$(VERSION)' -platforms '$(PLATFORMS)'
	@cat dist/SHA256SUMS

# Those that stop processes and fail servers over, and those about who waits for how long, have the machine to themselves:
# others' load would look like a fault.
alone := ./manager ./internal/faults ./internal/topology
go_test = $(GO) test -race -shuffle=on -count=$(COUNT) -parallel 8
others = grep -v -e onetoken/manager$$ -e internal/faults$$ -e internal/topology$$

test:
	$(go_test) -p 3 $$($(GO) list ./... | $(others))
	$(go_test) -p 1 $(alone)

check: lint test
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...

lint:
	$(GOLANGCI_LINT) run

bench:
	@$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(benched) | $(GO) run ./internal/benchreport $(if $(filter .,$(BENCH)),,-part)

# A module of its own: what is compared with is no dependency of ours.
bench-peers:
	@cd internal/peers && $(GO) run ./cmd/performance

performance:
	@cd internal/peers && $(GO) run ./cmd/performance -write $(CURDIR)/docs

# One build a package; an input that is interesting isn't made smaller for long, which would take all the time there is.
fuzz:
	@set -e; t=$(CURDIR)/bin/fuzz.test; cache=$$($(GO) env GOCACHE)/fuzz; \
	for d in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		$(GO) test -c -fuzz=. -o $$t $$d; \
		names=$$(cd $$d && $$t -test.list '^Fuzz'); \
		for f in $$names; do echo "$$d $$f"; \
			(cd $$d && $$t -test.run '^$$' -test.fuzz "^$$f\$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 10x \
				-test.parallel 2 -test.fuzzcachedir "$$cache/onetoken/$$d"); done; done

# A process for each core: the seeds of one process run one after the other.
sim:
	@t=$(CURDIR)/bin/sim.test; $(GO) test -c -o $$t ./internal/sim && cd internal/sim && \
	n=$$(getconf _NPROCESSORS_ONLN) && each=$$((($(SEEDS) + n - 1) / n)) && pids= && \
	for p in $$(seq 0 $$((n - 1))); do \
		$$t -test.run 'EveryRule|Replays' -test.timeout 0 -test.v -seeds $$each -first $$(($(FIRST) + p * each)) > $$t.$$p & \
		pids="$$pids $$!"; done; failed=0; p=0; \
	for pid in $$pids; do wait $$pid || failed=1; grep -av '=== \|--- PASS' $$t.$$p; p=$$((p + 1)); done; exit $$failed

mistakes:
	$(GO) test -timeout 30m ./internal/sim -run Mistake -mistakes -of $(OF) -part $(PART) -v -parallel 2

model:
	@docs/model/check
