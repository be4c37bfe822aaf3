# Every target works in .venv, which the first one that needs it builds from uv.lock: by uv where it
# is installed, else by a uv of the venv's own. PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
ONCE ?=
PROFILE ?=
WRITE ?=
FULL ?=
SLICEWATCH_SOAK ?=
FUZZ_SECONDS ?= 60
FAULTS ?=
PICTURES ?=

VENV := .venv
BIN := $(VENV)/bin
SYNCED := $(VENV)/.synced
TESTS := $(BIN)/pytest -q -n auto --dist worksteal  # a process a core

.DEFAULT_GOAL := help
.PHONY: help venv demo test check check-grafana format bench bench-client bench-scrape bench-detectors bench-embeddings bench-inputs bench-labels bench-slices test-faults soak fuzz tour
.DELETE_ON_ERROR:

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(SYNCED) ## build .venv and nothing else

demo: $(SYNCED) ## watch a hospital; ONCE=1 ends by itself, with 1 if the slice was not found
	$(BIN)/slicewatch demo $(if $(ONCE),--once)

test: $(SYNCED) ## run the tests
	$(TESTS)

test-faults: $(SYNCED) ## break a running service in every way that fits in minutes; WRITE=1 keeps the figures
	$(call faults,fast,fault,$(FAULTS))

# The long lane takes hours: SLICEWATCH_SOAK names a piece, and RESULTS.md keeps the others' rows.
SOAK_kills := test_kill_under_load.py test_kill_at_system_calls.py
SOAK_power := test_power_cut.py test_damage.py
SOAK_outage := test_postgres_outage.py test_full.py
SOAK_memory := test_soak.py
SOAK_rest := $(filter-out $(SOAK_kills) $(SOAK_power) $(SOAK_outage) $(SOAK_memory), \
    $(notdir $(wildcard tests/acceptance/test_*.py)))

soak: $(SYNCED) ## the same for hours; SLICEWATCH_SOAK=kills, power, outage, memory or rest for a piece
	$(if $(SLICEWATCH_SOAK),$(if $(SOAK_$(SLICEWATCH_SOAK)),,$(error no such piece of the soak)))
	$(call faults,full,fault or soak,$(SOAK_$(SLICEWATCH_SOAK)))

define faults
	@rm -f .figures.jsonl
	SLICEWATCH_LANE=$(1) SLICEWATCH_FIGURES=.figures.jsonl \
	    $(BIN)/pytest -q -m '$(2)' $(addprefix tests/acceptance/,$(or $(3),.))
	$(if $(WRITE),$(BIN)/python tests/acceptance/results.py .figures.jsonl)
endef

check: $(SYNCED) ## formatting, lint, types, imports, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TESTS)

format: $(SYNCED) ## write the formatting, and the README's file list, that check wants
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
	$(BIN)/python tests/unit/test_readme.py
	$(BIN)/python tests/unit/test_metrics_table.py
	$(BIN)/python -m grafana.build

check-grafana: $(SYNCED) grafana/checks/node_modules/.package-lock.json ## boards: types, queries against a real run, drawn panels; PICTURES=1 keeps them
	$(BIN)/pytest -q -rP grafana/checks $(if $(PICTURES),--pictures)

grafana/checks/node_modules/.package-lock.json: grafana/checks/package-lock.json
	cd grafana/checks && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

bench: $(SYNCED) ## events per CPU-second, with peers beside it; PROFILE=1 says where the time goes
	$(BIN)/python tests/benchmarks/bench_walk.py $(if $(PROFILE),--profile)

bench-client: $(SYNCED) ## what the client costs its program, through a minute of outage
	$(BIN)/python -m tests.benchmarks.bench_client

bench-scrape: $(SYNCED) ## what Prometheus costs: 10,000 slice series during full ingest
	$(BIN)/python -m tests.benchmarks.bench_scrape

bench-detectors: $(SYNCED) ## false alarms and delays beside river's; FULL=1 writes detectors/BENCH.md
	$(BIN)/python -m tests.benchmarks.bench_detectors $(if $(FULL),--full)

bench-labels: $(SYNCED) ## how soon bad slices are found with the label plan; FULL=1 writes detectors/LABEL_PLAN.md
	$(BIN)/python -m tests.benchmarks.bench_labels $(if $(FULL),--full)

bench-slices: $(SYNCED) ## how often the slices that got worse are named, and those alone; FULL=1 writes the page
	$(BIN)/python -m tests.benchmarks.bench_slices $(if $(FULL),--full)

# Evidently and NannyML do not import beside the pandas of uv.lock: they run in an environment of their own.
bench-inputs: $(SYNCED) ## input shift beside Evidently and NannyML; FULL=1 writes detectors/INPUTS.md
	@uv=$$(command -v uv || echo $(BIN)/uv); PYTHONPATH=. NML_DISABLE_USAGE_LOGGING=1 \
	    $$uv run --quiet --no-project --python 3.11 \
	    --with evidently==0.7.23 --with nannyml==0.13.1 --with statsmodels --with 'pandas<3' --with scipy --with river \
	    python -W ignore -m tests.benchmarks.bench_inputs $(if $(FULL),--full)

bench-embeddings: $(SYNCED) ## how soon embeddings that moved are found, beside MMD; FULL=1 writes detectors/EMBEDDINGS.md
	$(BIN)/python -m tests.benchmarks.bench_embeddings $(if $(FULL),--full)

fuzz: $(SYNCED) ## each decoder of ingest, FUZZ_SECONDS=60 a door, guided by coverage
	for door in json arrow otlp otlp-json cloudevents capture gzip zstd; do \
	    $(BIN)/python tests/fuzz/decoders.py $$door $(FUZZ_SECONDS) || exit 1; done

tour: $(SYNCED) ## take the README's pictures of the pages anew, with Debian's chromium
	$(BIN)/python -m tests.tour

$(SYNCED): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	    rm -rf $(VENV); \
	    echo "The venv module is missing: on Debian and Ubuntu, apt-get install python3-venv" >&2; \
	    exit 1; }
	@uv=$$(command -v uv) || { \
	    uv=$(BIN)/uv; test -x $$uv || $(BIN)/python -m pip install --quiet 'uv>=0.9'; }; \
	    export UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON_DOWNLOADS=never; \
	    sync="$$uv sync --frozen --inexact --quiet --python $(BIN)/python"; \
	    $$sync || UV_SYSTEM_CERTS=1 $$sync  # a network may sign with a certificate of its own
	@touch $@
