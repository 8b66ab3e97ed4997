# Everything a person does with this repository, each in one word. A fresh clone needs Go and nothing else:
# what a target needs it builds or fetches into bin/ and .tools/, both ignored by git.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

MODULES := contracts libs services tools

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/sirocco-cloud/sirocco/libs/app.Version=$(VERSION)

LINT_VERSION := v2.15.0
LINT := .tools/golangci-lint-$(LINT_VERSION)

# The workspace's own packages, except the end-to-end suite, which has a target and a time limit of its own.
UNIT_PACKAGES = $$(go list $(addprefix ./,$(addsuffix /...,$(MODULES))) | sed '/\/tools\/e2e/d')
TEST_FLAGS ?= -race -shuffle=on -timeout 8m
E2E_FLAGS ?= -count=1 -timeout 12m
# CI adds the counts of several runs: make test COUNTS=file appends "passed failed skipped" to it.
COUNTS ?=
REPORT = go run ./tools/testreport $(if $(COUNTS),-counts $(COUNTS))

IMAGE_PREFIX ?= sirocco
IMAGE_TAG ?= dev
COMPOSE ?= docker compose

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

.PHONY: up
up: build ## Build, then run the whole platform in one process (ARGS="…" go to `sirocco up`)
	@exec bin/sirocco up $(ARGS)

.PHONY: build
build: ## Compile every program into bin/
	@mkdir -p bin
	packages=$$(go list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' ./services/... ./tools/... | sed '/\/tools\/testreport$$/d')
	[ -n "$$packages" ] || { echo "no program to build yet"; exit 0; }
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $$packages
	echo "built $$(printf '%s\n' $$packages | wc -l) programs into bin/"

.PHONY: test
test: ## Run every test but the end-to-end ones, with the race detector
	@go test -json $(TEST_FLAGS) $(UNIT_PACKAGES) | $(REPORT)

.PHONY: e2e
e2e: build ## Run the end-to-end suite against bin/sirocco
	@[ -d tools/e2e ] || { echo "no end-to-end suite yet"; exit 0; }
	SIROCCO_BIN=$(CURDIR)/bin go test -json $(E2E_FLAGS) ./tools/e2e/... | $(REPORT)

.PHONY: bench
bench: build ## Compare a call through Sirocco with Go's own reverse proxy (ARGS="…" go to the benchmark)
	@go run ./tools/bench $(ARGS)

.PHONY: lint
lint: $(LINT) ## Check style, mistakes and the import rules of every module
	@status=0
	for module in $(MODULES); do
	  [ -n "$$(cd $$module && go list ./... 2>/dev/null)" ] || continue
	  (cd $$module && ../$(LINT) run ./...) || { status=1; echo "lint: $$module has findings"; }
	done
	exit $$status

.PHONY: fmt
fmt: $(LINT) ## Format every Go file the way lint wants it
	@for module in $(MODULES); do (cd $$module && ../$(LINT) fmt ./...); done

$(LINT):
	@echo "building golangci-lint $(LINT_VERSION), once"
	mkdir -p .tools
	GOWORK=off GOFLAGS=-mod=mod GOBIN=$(CURDIR)/.tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv .tools/golangci-lint $@

.PHONY: generate
generate: ## Remake every generated file
	@for module in $(MODULES); do (cd $$module && go generate ./...); done

.PHONY: tidy
tidy: ## Bring go.mod, go.sum and go.work.sum in line with the imports
	@for module in $(MODULES); do (cd $$module && GOWORK=off go mod tidy); done
	go work sync

.PHONY: image
image: ## Build one container image per service, and the sample's (IMAGE_PREFIX, IMAGE_TAG)
	@targets=$$(sed -nE 's/^FROM runtime(-root)? AS (.*)/\2/p' deployments/docker/Dockerfile)
	for target in $$targets; do
	  docker build -q -f deployments/docker/Dockerfile --build-arg VERSION=$(VERSION) --target $$target -t $(IMAGE_PREFIX)/$$target:$(IMAGE_TAG) . >/dev/null
	  echo "built $(IMAGE_PREFIX)/$$target:$(IMAGE_TAG)"
	done

.PHONY: compose-up
compose-up: ## Start one container per service with Docker Compose
	@VERSION=$(VERSION) $(COMPOSE) up -d --build

.PHONY: compose-down
compose-down: ## Stop them and delete their data
	@$(COMPOSE) down -v --remove-orphans

.PHONY: ci
ci: ## Run what CI runs
	@bash .ci/run

.PHONY: clean
clean: ## Remove what make built
	@rm -rf bin .tools
