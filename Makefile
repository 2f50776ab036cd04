# make demo and make test are all there is to set up: they need Go and nothing else.
GO ?= go
GOLANGCI_LINT ?= golangci-lint
COUNT ?= 1

.PHONY: help demo build test check lint bench fuzz

help:
	@echo 'make demo    a fleet of processes on an embedded Redis and a scripted token endpoint'
	@echo 'make test    the tests; those about a real Redis run where redis-server is installed'
	@echo 'make check   format, vet, lint, test'
	@echo 'make lint    golangci-lint'
	@echo 'make bench   the benchmarks'
	@echo 'make fuzz    each fuzz target for a few seconds'
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

fuzz:
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime 5s $$p || exit 1; done; done
