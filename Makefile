# Everyday commands. Each makes .venv if it is missing and installs what it needs; PYTHON names the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

SCALE := .venv-scale
DASHBOARDS := .venv-dashboards

# How much of it: kills of each kind, and spans of the stores that are read (none: a million, and ten million).
KILLS ?= 200
SPANS ?=

# Which frameworks (none: all).
FRAMEWORKS ?=

.PHONY: help demo test check format bench bench-peers bench-streams bench-store bench-diff bench-guards bench-collect
.PHONY: bench-otlp bench-counts mutations branches scale kill sdks frameworks interop dashboards wheel clean

help:
	@echo "make demo         record a small agent on a real local model, replay it with the model gone"
	@echo "make test         all tests"
	@echo "make check        ruff and mypy"
	@echo "make bench        what recording and replaying cost"
	@echo "make bench-peers  the same work with vcrpy, cassetter and agent-rewind beside it"
	@echo "make bench-streams  time to the first chunk of a live stream; the pace of a replayed one"
	@echo "make bench-guards  what all guards together cost a call, early and late in a conversation"
	@echo "make bench-counts instructions of a call, and memory that it touches, counted by Valgrind: no clock, no noise"
	@echo "make branches     identical concurrent requests, 100 replays of each kind of program"
	@echo "make bench-store  a growing conversation on disk; eight processes recording at once (about four minutes)"
	@echo "make bench-collect  5,000 spans a second into \`escapement collect\`, for a minute"
	@echo "make bench-otlp   what export over OTLP costs the agent"
	@echo "make bench-diff   comparing two runs of 1,000 steps"
	@echo "make mutations    an agent changed in 200 ways; how many of them a replay names"
	@echo "make scale        ClickHouse and Spark on the tables; reading stores of a million and of ten million spans"
	@echo "make kill         200 kills while recording, 200 while sealing, merging and deleting; no answer may be lost"
	@echo "make sdks         the fidelity matrix with the oldest SDKs that are supported"
	@echo "make frameworks   agents of LangChain, crewai, DSPy, ... recorded, and replayed with their provider gone"
	@echo "make interop      instrumentors of others recorded, imported, replayed; runs sent to Phoenix, MLflow and rotel"
	@echo "make dashboards   the files of dashboards/, written anew and checked with Grafana's own types and parsers"
	@echo "make clean        remove what these commands made"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Escapement needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# What is installed is written down in stamps, so that a second call starts at once.
$(VENV)/demo: pyproject.toml | $(BIN)/python
	@echo "installing what the demo needs into $(VENV) (about a minute, the first time)" >&2
	@$(PIP) install -e ".[demo]"
	@touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	@echo "installing what the tests need into $(VENV) (about a minute, the first time)" >&2
	@$(PIP) install -e ".[demo,dev]"
	@touch $@ $(VENV)/demo

demo: $(VENV)/demo
	@$(BIN)/escapement demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -n auto

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks.overhead

bench-peers: $(VENV)/dev
	$(BIN)/python -m benchmarks.peers

bench-streams: $(VENV)/dev
	$(BIN)/python -m benchmarks.streams

bench-guards: $(VENV)/dev
	$(BIN)/python -m benchmarks.guards

bench-counts: $(VENV)/dev
	$(BIN)/python -m benchmarks.counts

branches: $(VENV)/dev
	REPLAYS=100 $(BIN)/python -m pytest -s tests/fidelity/test_branches.py tests/fidelity/test_event_loops.py -k keep_their_answers

bench-store: $(VENV)/dev
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.concurrent

bench-otlp: $(VENV)/dev
	$(BIN)/python -m benchmarks.otlp

bench-diff: $(VENV)/dev
	$(BIN)/python -m benchmarks.comparing

bench-collect: $(VENV)/dev
	$(BIN)/python -m benchmarks.collecting

mutations: $(VENV)/dev
	$(BIN)/python -m benchmarks.mutations

scale: $(SCALE)/ready
	$(SCALE)/bin/python -m pytest -rs tests/test_engines.py tests/dashboards/test_clickhouse.py
	$(SCALE)/bin/python -m benchmarks.scale $(SPANS)

# Half a gigabyte that nothing else needs. Spark asks for Java, which is not to be had from PyPI.
$(SCALE)/ready: pyproject.toml | $(BIN)/python
	@echo "installing chDB and PySpark into $(SCALE) (some minutes, the first time)" >&2
	@$(BIN)/python -m venv $(SCALE)
	@$(SCALE)/bin/python -m pip --disable-pip-version-check --quiet install -e ".[openai,anthropic,collect]" pytest chdb pyspark
	@touch $@

kill: $(VENV)/dev
	KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/test_journal.py -k killed_at_random
	KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/test_store_kill.py

sdks: $(VENV)/dev
	$(BIN)/python -m tests.oldest

frameworks: $(VENV)/dev
	FRAMEWORKS="$(FRAMEWORKS)" $(BIN)/python -m pytest tests/frameworks -n 2 -m framework

interop: $(VENV)/dev
	$(BIN)/python -m pytest tests/foreign -n 0 -m framework

dashboards: $(VENV)/dev $(DASHBOARDS)/ready
	$(BIN)/python -m dashboards.panels
	$(BIN)/python -m pytest -n 0 -rs tests/dashboards

# Types and grammars that Grafana publishes on npm. Without it the files are written all the same, and checked less.
$(DASHBOARDS)/ready: Makefile
	@mkdir -p $(DASHBOARDS)
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix $(DASHBOARDS) \
		@grafana/schema@13.2.3 @grafana/lezer-traceql@1.0.0 @lezer/lr@1.4.12 typescript@7.0.2 && touch $@; \
	else echo "npm is not installed: types and TraceQL are not checked" >&2; fi

clean:
	rm -rf $(VENV) .venv-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
