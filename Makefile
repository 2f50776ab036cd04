# make demo and make test are all there is to set up: they need Go and nothing else.
GO ?= go
GOLANGCI_LINT ?= golangci-lint
COUNT ?= 1
# A number of inputs (500x), not a time (5s): the end of a time can cut an input off, which Go reports as a failure.
FUZZTIME ?= 500x

.PHONY: help demo build test check lint bench fuzz model

help:
	@echo 'make demo    a fleet of processes on an embedded Redis and a scripted token endpoint'
	@echo 'make test    the tests; those about a real Redis run where redis-server is installed'
	@echo 'make check   format, vet, lint, test'
	@echo 'make lint    golangci-lint'
	@echo 'make bench   the benchmarks'
	@echo 'make fuzz    the fuzz targets, FUZZTIME=$(FUZZTIME) each'
	@echo 'make model   the model of the protocol, checked with spin'
	@echo 'make build   bin/onetoken and bin/worker'

demo: build
	@bin/onetoken demo --worker bin/worker

build:
	@$(GO) build -o bin/ ./cmd/...

test:
	$(GO) test -race -shuffle=on -count=$(COUNT) -p 3 -parallel 8 ./...

check: lint test
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...

lint:
	$(GOLANGCI_LINT) run

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# One build a package; an input that is interesting isn't made smaller for long, which would take all the time there is.
fuzz:
	@set -e; t=$(CURDIR)/bin/fuzz.test; cache=$$($(GO) env GOCACHE)/fuzz; \
	for d in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		$(GO) test -c -fuzz=. -o $$t $$d; \
		names=$$(cd $$d && $$t -test.list '^Fuzz'); \
		for f in $$names; do echo "$$d $$f"; \
			(cd $$d && $$t -test.run '^$$' -test.fuzz "^$$f\$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 10x \
				-test.parallel 2 -test.fuzzcachedir "$$cache/onetoken/$$d"); done; done

model:
	@docs/model/check
