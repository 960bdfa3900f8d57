# The index of commands. `make ci` is exactly what decides whether a change is good.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help tools test-tools build run demo test lint doc licences bench soak ci clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## Make nats-server and compilers of C and C++ available (quick when nothing is missing)
	@scripts/tools.sh

test-tools: ## The same, and what the tests need: PostgreSQL, the Python NATS client, a Docker engine
	@scripts/tools.sh test

build: tools ## Build target/debug/jetmill
	cargo build

run: build ## Run the platform on this machine with a demonstration; data is kept in .jetmill
	exec target/debug/jetmill dev --data-dir .jetmill --demo

demo: build ## Submit the demonstration's work to the running platform
	target/debug/jetmill demo

# One build of everything first: the tests run target/debug/jetmill, and the same set of features
# serves both, so that nothing is compiled twice.
test: test-tools ## Run every test, on a real nats-server, a real PostgreSQL and a real Docker engine
	cargo build --workspace --all-targets
	if cargo nextest --version >/dev/null 2>&1; then \
	    cargo nextest run --workspace; else cargo test --workspace --all-targets; fi
	cargo test --workspace --doc

lint: tools ## Check the formatting and the lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

doc: tools ## Build the documentation of the crates; a broken link is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

licences: ## Check the licence and the source of every dependency
	@python3 scripts/licences.py

# Large counts and many seeds: half an hour to an hour. Goes on where it was interrupted.
soak: test-tools ## Eleven million simulated steps, every mutant, twenty seeds of chaos on real processes
	cargo build --release -p jetmill -p simulator
	target/release/simulate --seeds 1000 --steps 10000
	target/release/simulate --flow --seeds 100 --steps 10000
	python3 scripts/mutants.py
	YEARS=all cargo test -p scheduler --lib schedule::tests::years
	target/release/jetmill chaos --own --seeds 20 --tasks 1000 --for 75s --ledger both \
	    --resume target/soak $(SOAK)

bench: tools ## Measure a release build; options in BENCH="..." (docs/operations/measuring.md)
	JETMILL_RUSTC="$$(rustc --version | cut -d ' ' -f 2)" cargo build --release
	target/release/jetmill bench $(BENCH)

ci: lint test doc licences ## Everything that decides whether a change is good

clean: ## Remove what was built and downloaded; .jetmill is kept
	cargo clean
	rm -rf .tools
