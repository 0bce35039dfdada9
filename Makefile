# The verbs of Buzz. `make` alone lists them. None asks a question, and all work without default.env.
-include default.env

# Outside the clone, so that the dependencies (DataFusion above all) are compiled once for all clones.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/buzz-target

SAMPLE ?= data/nyc-taxi-daily
QUERY ?= code/examples/query-delta-taxi.json
# The example names the bucket of the original; here it reads the sample.
TABLE ?= $(if $(filter code/examples/query-delta-taxi.json,$(QUERY)),nyc_taxi=$(SAMPLE))
FORMAT ?= table

BUZZ := $(CARGO_TARGET_DIR)/debug/buzz
AWS_CLI := $(CARGO_TARGET_DIR)/aws-cli

.DEFAULT_GOAL := help
.PHONY: help build sample run-query test check check-infra format bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## Build the buzz command
	@[ -x $(BUZZ) ] || echo "building Buzz; the first time compiles DataFusion, 15 to 20 minutes on two cores …" >&2
	@cargo build --workspace --bin buzz

sample: build ## Make the sample table in data/, if it is not there
	@$(BUZZ) sample $(SAMPLE)

run-query: sample ## Run QUERY (default: the taxi example on the sample) in one process and print its rows
	@$(BUZZ) query $(QUERY) $(if $(TABLE),--table $(TABLE)) --format $(FORMAT)

test: aws-cli ## Run all tests
	@echo "building and running the tests; the first time compiles DataFusion, 15 to 20 minutes on two cores …" >&2
	cargo build --workspace --bins
	cargo test --workspace --lib --bins --tests

.PHONY: aws-cli
aws-cli: ## Install the aws command that tests use, if there is none
	@[ -x $(AWS_CLI)/bin/aws ] || command -v aws > /dev/null || { \
	  echo "installing the aws command in $(AWS_CLI) …" >&2; \
	  python3 -m venv $(AWS_CLI) && $(AWS_CLI)/bin/pip install --quiet --disable-pip-version-check awscli >&2; }

check: ## Check format and lints; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	@infra/bin/check.sh

check-infra: ## Check and test the infrastructure: format, validity, permissions, Terraform tests
	@infra/bin/check.sh

format: ## Format the code
	cargo fmt --all

bench: ## Compare with plain DataFusion, release build; BENCH_RUNS=5
	@echo "building for release; the first time takes about 40 minutes on two cores …" >&2
	cargo build --release --workspace --bin buzz --bin plain-datafusion
	python3 code/testkit/bench/bench.py --bin $(CARGO_TARGET_DIR)/release --sample $(SAMPLE) --runs $(or $(BENCH_RUNS),5)

clean: ## Remove the sample; compiled code stays in CARGO_TARGET_DIR
	rm -rf data
