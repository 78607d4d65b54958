# One target for each check, and CI runs the same ones (.ci/run). `make help` lists them.
#
# All of them work on a fresh Debian 12 as root, from a clean clone, with no more than the Rust toolchain and make, and can be
# run again. They start no service of the system; what tests and demo start, they stop.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# One cargo at a time: they would wait for each other's lock anyway, and mix their output.
.NOTPARALLEL:

CARGO ?= cargo
# `test` builds for the workspace as a whole, never for one package: features would be resolved anew, and half of the
# dependencies built again. --tests, so that the programs under test and the tests are built with the same ones.
BUILD_TESTS := $(CARGO) build --workspace --bins --tests --locked
# The program that the crash tests let die: the same one with fail points in it, under a name of its own.
BUILD_FAILPOINTS := $(CARGO) build --workspace --bin defib-failpoints --features defib/failpoints --locked

# The whole-program tests, by name. `--package defib-tests` would resolve features anew and build most dependencies a second time.
E2E := $(foreach name,$(basename $(notdir $(wildcard tests/tests/*))),--test $(name))

# The agent of the demo is alone in its image, so it must be static. --target keeps what is built with these flags apart
# from everything else in target/.
HOST = $(shell rustc --version --verbose | sed -n 's/^host: //p')
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
BUILD_AGENT = RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols' $(CARGO) build --package defib-demo-agent --locked \
	--target-dir $(TARGET_DIR) --target $(HOST)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the main job for real, in about a minute; KEEP=1 leaves it running until Ctrl-C
	@command -v $(CARGO) >/dev/null || { echo "no cargo: install Rust, see rust-version in Cargo.toml" >&2; exit 1; }
	@deploy/dev/install.sh
	$(CARGO) build --workspace --bins --locked --target-dir $(TARGET_DIR)
	$(BUILD_AGENT)
	@exec env KEEP="$(KEEP)" ENGINE="$(ENGINE)" AGENT="$(TARGET_DIR)/$(HOST)/debug/defib-demo-agent" "$(TARGET_DIR)/debug/defib-demo"

.PHONY: test
test: install fmt build-tests halves ## everything that must hold

.PHONY: install
install: toolchain ## what is missing of the Debian packages in deploy/dev/packages.txt
	@deploy/dev/install.sh

.PHONY: toolchain
toolchain:
	@command -v $(CARGO) >/dev/null || { echo "no cargo: install Rust, see rust-version in Cargo.toml" >&2; exit 1; }
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

.PHONY: fmt
fmt: ## formatting, as a check; `cargo fmt --all` mends it
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy: ## lints, warnings denied
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

.PHONY: doc
doc: ## documentation, warnings denied
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --workspace --no-deps --document-private-items --locked

# The programs first: cargo builds those of other packages only when asked to, and the whole-program tests start them.
.PHONY: build-tests
build-tests: ## what the tests start, without running them
	$(BUILD_TESTS)
	$(BUILD_FAILPOINTS)

# The whole-program tests wait more than they compute, so several at once are done much sooner on two processors. The variable is the
# library's, and whoever sets it decides.
export RUST_TEST_THREADS ?= 4

# How long each test took is written down by a runner of ours.
TEST_TIMES = $(abspath $(TARGET_DIR))/test-times
TIMED = TEST_TIMES=$(TEST_TIMES) CARGO_TARGET_$(shell echo $(subst -,_,$(HOST)) | tr a-z A-Z)_RUNNER=$(CURDIR)/deploy/dev/time-tests.sh

# For the same reason there are two halves that run at the same time. What compiles in the second one gives way to the tests.
FIRST_HALF := crash daemon neighbours postgres store webhook
SECOND_HALF := $(filter-out $(FIRST_HALF),$(sort $(basename $(notdir $(wildcard tests/tests/*.rs crates/*/tests/*.rs))) \
	$(notdir $(patsubst %/main.rs,%,$(wildcard tests/tests/*/main.rs crates/*/tests/*/main.rs)))))

.PHONY: halves
halves: build-tests
	@: >$(TEST_TIMES)
	@deploy/dev/side-by-side.sh $(TEST_TIMES).second-half '$(MAKE) --no-print-directory first-half' \
		'nice -n 19 $(MAKE) --no-print-directory clippy doc && $(MAKE) --no-print-directory second-half'
	@deploy/dev/slowest-tests.sh <$(TEST_TIMES)

.PHONY: first-half
first-half:
	$(TIMED) $(CARGO) test --workspace --locked $(FIRST_HALF:%=--test %)

.PHONY: second-half
second-half:
	$(TIMED) $(CARGO) test --workspace --locked --lib --bins $(SECOND_HALF:%=--test %)
	$(CARGO) test --workspace --locked --doc

.PHONY: unit
unit: ## all tests but the whole-program ones
	$(CARGO) test --workspace --exclude defib-tests --locked

.PHONY: e2e
e2e: install build-tests ## the whole-program tests alone, on a real Postgres and a real Docker engine
	$(CARGO) test --workspace $(E2E) --locked

# `test` runs the engine crate and a few whole-program tests on both; this runs all of the latter on the newer one.
.PHONY: newer-dockerd
newer-dockerd: install build-tests ## the whole-program tests on a newer Docker engine, fetched into target/
	TESTKIT_DOCKERD=newer $(CARGO) test --workspace $(E2E) --locked --no-fail-fast

.PHONY: deploy
deploy: install build-tests ## the files of deploy/ against the program and the published schemas
	$(CARGO) test --workspace --test deploy --locked

# Hours of one core: a million steps of schedules of two and of three replicas (a second each), a thousand seeds of every incident,
# ten chaos years, the report.
SEEDS ?= 1000
YEARS ?= 10
STEPS ?= 1000000

.PHONY: sim
sim: ## STEPS of schedules, every incident over SEEDS seeds, YEARS chaos years, and docs/simulation anew
	$(CARGO) build --release --package defib-sim --locked
	target/release/defib-sim schedules --replicas 2 --steps $(STEPS) --seed 1
	target/release/defib-sim schedules --replicas 3 --steps $(STEPS) --seed 1
	target/release/defib-sim run --all --seeds $(SEEDS)
	target/release/defib-sim chaos --years $(YEARS) --seed 1
	target/release/defib-sim report --out docs/simulation --seeds $(SEEDS) --seeds-of-others 50 --chaos-days 30 --seed 1

# Minutes, and a seed of its own each time unless SEED says one.
ROUNDS ?= 200
SEED ?= $(shell date +%s)

.PHONY: soak
soak: install ## ROUNDS of random kills of replicas, of Postgres, and of troubled neighbours, with SEED: each dead one is restarted once
	$(BUILD_TESTS)
	$(TARGET_DIR)/debug/defib-soak --seed $(SEED) --rounds $(ROUNDS) --break replicas
	$(TARGET_DIR)/debug/defib-soak --seed $(SEED) --rounds $(ROUNDS) --break postgres
	$(TARGET_DIR)/debug/defib-soak --seed $(SEED) --rounds $(ROUNDS) --break neighbours

# docs/performance.md says what is measured, and what came out. QUICK=1: a small fleet and the program alone, in less than three
# minutes without the build. The figures are in target/bench.json as well.
.PHONY: bench
bench: install ## what defib costs, and how long somebody stays dead, beside their floors in the same run; QUICK=1: a small fleet
	$(CARGO) build --release --locked --package defib --package defib-tests --package defib-sim \
		--bin defib --bin defib-bench --bin defib-sim
	$(TARGET_DIR)/release/defib-bench $(if $(QUICK),--quick) --json $(abspath $(TARGET_DIR))/bench.json
	$(if $(QUICK),,$(TARGET_DIR)/release/defib-sim bench)
	$(if $(QUICK),,$(CARGO) test --release --package defib-policy --locked --test rules -- --ignored --nocapture measure_of)

# Not a part of `test`, which holds the links of the same pages without it.
.PHONY: docs
docs: ## the pages of docs/ as a small site in target/book
	@command -v mdbook >/dev/null || { echo "no mdbook: cargo install --locked mdbook" >&2; exit 1; }
	mdbook build --dest-dir "$(abspath $(TARGET_DIR))/book"

.PHONY: deb
deb: install ## the Debian package, in target/debian (docs/install.md)
	@deploy/debian/build.sh

# Alpine's linker is not needed: Rust brings musl along, and musl-gcc compiles the C of ring, zstd and mimalloc against it.
MUSL = $(shell uname -m)-unknown-linux-musl

.PHONY: static
static: install ## one program that needs no library of the machine it runs on
	rustup target add $(MUSL)
	CC_$(subst -,_,$(MUSL))=musl-gcc $(CARGO) build --release --locked --target $(MUSL) --package defib --bin defib
	@ls -l $(TARGET_DIR)/$(MUSL)/release/defib

.PHONY: release-notes
release-notes: ## the newest section of CHANGELOG.md, if an operator can upgrade by it
	@deploy/dev/release-notes.sh "$$(sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)" <CHANGELOG.md

# Minutes. A test replays days of the same.
DAYS ?= 30

.PHONY: chaos-month
chaos-month: ## DAYS of a simulated fleet with SEED, recorded and replayed: every verdict and order must be the recorded one
	$(CARGO) run --release --locked --quiet --package defib-backtest --example chaos_month $(DAYS) $(SEED)

.PHONY: backtest-example
backtest-example: ## the example of docs/backtest.md anew: a week of a simulated fleet, recorded and replayed
	$(CARGO) run --release --locked --quiet --package defib-backtest --example example docs/backtest/example.html docs/backtest/example.txt
	deploy/dev/doc-tables.sh $(TARGET_DIR)/debug/defib docs/backtest.md

.PHONY: pictures
pictures: install ## the pictures of docs/status-page.md anew: each place in a real browser, wide and narrow, light and dark
	$(BUILD_TESTS)
	$(CARGO) test --package defib-tests --locked --test page -- --ignored --exact pictures::pictures_of_each_place_for_the_docs

.PHONY: env-file
env-file: ## writes deploy/defib.env anew from the table of knobs
	$(CARGO) build --workspace --bins --locked
	$(CARGO) run --locked --quiet --bin defib -- help-env >deploy/defib.env.new
	mv deploy/defib.env.new deploy/defib.env

.PHONY: doc-tables
doc-tables: ## writes the tables of knobs, metrics and policies anew, in docs/ and README.md
	$(CARGO) build --workspace --bins --locked
	deploy/dev/doc-tables.sh $(TARGET_DIR)/debug/defib README.md docs/configuration.md docs/metrics.md

# Not a part of `test`: cargo-deny takes minutes to build, and its advisories come from a repository, not from a registry.
.PHONY: deny
deny: ## licences, sources and duplicates of the dependencies; ADVISORIES=1 also known vulnerabilities
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "no cargo-deny: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check licenses bans sources $(if $(ADVISORIES),advisories)

# Not a part of `test`: it builds the policy a thousand times. docs/mutants.md says what is left out, and why.
JOBS ?= 2

.PHONY: mutants
mutants: ## the policy with one thing at a time made wrong: a test must fail for each (half an hour of JOBS=2 cores)
	@$(CARGO) mutants --version >/dev/null 2>&1 || { echo "no cargo-mutants: cargo install --locked cargo-mutants" >&2; exit 1; }
	deploy/dev/bound-mutants.sh
	$(CARGO) mutants --package defib-policy --jobs $(JOBS) --output $(TARGET_DIR)

.PHONY: alerts
alerts: ## the alerts of deploy/prometheus against made-up series
	@command -v promtool >/dev/null || { echo "no promtool: apt-get install prometheus" >&2; exit 1; }
	promtool check rules deploy/prometheus/alerts.yaml
	promtool test rules deploy/prometheus/alerts.test.yaml

.PHONY: clean
clean: ## removes what was built
	$(CARGO) clean
