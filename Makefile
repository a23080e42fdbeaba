# Verbs for people and for CI. `make` alone lists them; the text behind `##` is the help.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
KERNEL := internal/taskpool/kinds/fib_kernel
STATE  := internal/taskpool/worker/kernel_state

COMPILED = ls $(KERNEL).*.so >/dev/null 2>&1
SAY_WHETHER_COMPILED = if $(COMPILED); then echo "The fib kernel is compiled."; \
	elif command -v cc >/dev/null; then echo "The fib kernel is plain Python, about 50 times slower: it did not compile." \
	"What the compiler says: $(BIN)/pip install -v --no-build-isolation --no-deps -e ."; \
	else echo "The fib kernel is plain Python, about 50 times slower: there is no C compiler." \
	"To change that: apt-get install gcc python3-dev, then make clean setup"; fi >&2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## make .venv with the three programs and the tools (PYTHON=python3.12 to choose)
	@$(SAY_WHETHER_COMPILED)

# The package is installed editable, so that the programs run the sources you edit. pip then leaves what it has compiled
# beside the sources, where both the programs and the tests (pythonpath = internal) import it; hence those sources are
# prerequisites: a stale .so would shadow an edited one in silence.
# No build isolation: the build then uses the pinned setuptools and Cython, and works without fetching them twice.
$(STAMP): pyproject.toml setup.py constraints.txt internal/taskpool/__init__.py $(wildcard $(KERNEL).py $(KERNEL).pxd $(STATE).pyx)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "taskpool needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "$(PYTHON) cannot make virtual environments here. Try: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	rm -f $(KERNEL).*.so $(STATE).*.so
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools Cython
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

.PHONY: run
run: $(STAMP) ## the demonstration: 12 Fibonacci jobs, 4 workers, every third try crashes, every result arrives
	@$(SAY_WHETHER_COMPILED); \
	if $(COMPILED); then range=40-45; else range=24-29; echo "So the jobs are fib 24-29 instead of 40-45." >&2; fi; \
	set -x; $(BIN)/tp-generator fib $$range --repeat 2 --workers 4 --chaos crash=0.33,seed=7 --crash-limit unlimited -v

.PHONY: test
test: $(STAMP) ## run the whole test suite, with branch coverage of the core
	$(BIN)/python -m pytest --cov --cov-report=term

# In an environment of its own each, under build/pythons. VERSIONS=3.13 and SUITES="unit e2e/test_input.py" narrow it.
VERSIONS ?= 3.11 3.12 3.13
SUITES   ?= unit e2e
.PHONY: test-pythons
test-pythons: $(STAMP) ## run the unit and end-to-end tests on each of VERSIONS="3.11 3.12 3.13" that is here
	cd tests && ../$(BIN)/python -m proof.pythons --versions $(VERSIONS) --suites $(SUITES)

.PHONY: lint
lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# The three cmd/*/main.py share a module name, which one run of mypy does not allow.
.PHONY: type
type: $(STAMP) ## check types
	$(BIN)/mypy
	@for program in cmd/*/main.py; do echo "$(BIN)/mypy $$program"; $(BIN)/mypy "$$program" || exit 1; done

.PHONY: fmt
fmt: $(STAMP) ## format the sources and repair what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: check
check: lint type test ## everything that has to be right before a change goes in

# --- proofs that take their time ---------------------------------------------------------------------------------

# The dealer on a simulated host. SEED=n repeats one schedule, shrunk, with its trace; FIRST=n begins elsewhere.
SEEDS ?= 20000
FIRST ?= 1
.PHONY: sim
sim: $(STAMP) ## simulate SEEDS=20000 schedules of faults on every core, or repeat one: SEED=n
	cd tests && ../$(BIN)/python -m sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST))

.PHONY: mutants
mutants: $(STAMP) ## plant every known bug in a copy of the package: the simulator must find each
	cd tests && ../$(BIN)/python -m sim.mutants

# A sweep goes on where it was interrupted; SWEEP=build/other.jsonl, or a removed file, begins a new one.
SWEEP ?= build/sweep.jsonl
.PHONY: sweep
sweep: $(STAMP) ## kill every program at every state-changing system call, refuse every call with every error
	mkdir -p $(dir $(SWEEP))
	cd tests && ../$(BIN)/python -m proof.sweep --journal $(abspath $(SWEEP))

# The coverage-guided fuzzer has wheels for some systems only; without it our own does all.
MINUTES  ?= 10
MESSAGES ?= 100000
.PHONY: fuzz
fuzz: $(STAMP) ## fuzz every decoder, then the queues of a running dealer (MINUTES=10 MESSAGES=100000)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -c constraints.txt atheris
	cd tests && ../$(BIN)/python -m fuzz.run --minutes $(MINUTES)
	cd tests && ../$(BIN)/python -m fuzz.live --messages $(MESSAGES)

JOBS         ?= 10000
DEALER_KILLS ?= 200
WORKER_KILLS ?= 2000
.PHONY: chaos
chaos: $(STAMP) ## kill dealers, workers and generators at random (JOBS=10000 DEALER_KILLS=200 WORKER_KILLS=2000)
	cd tests && ../$(BIN)/python -m proof.chaos --jobs $(JOBS) --dealer-kills $(DEALER_KILLS) --worker-kills $(WORKER_KILLS)

QUEUED ?= 1000000
.PHONY: depth
depth: $(STAMP) ## what QUEUED=1000000 queued jobs cost: memory, restart, dispatch, against a short queue
	cd tests && ../$(BIN)/python -m proof.depth --jobs $(QUEUED)

CLIENTS ?= 50
.PHONY: storm
storm: $(STAMP) ## how much a storm of scrapers slows dispatch (CLIENTS=50, half of them stalled)
	cd tests && ../$(BIN)/python -m proof.storm --clients $(CLIENTS)

# What compares times is no test: its margin is for a machine that does nothing else.
.PHONY: times
times: $(STAMP) ## time the journal's statements beside a million jobs and beside ten thousand
	$(BIN)/python -m pytest tests/proof/times_journal.py

# Beside other pools. Those of Python get an environment of their own; of the programs (redis-server, GNU parallel,
# xargs, task-spooler, g++) those are measured that are here, and each row without its peer names the package.
# ROWS="noop cpu" narrows it to rows with these in their name, SCALE=0.1 shrinks the sizes for a trial.
ROUNDS      ?= 5
SCALE       ?= 1
PEERS       := celery dask distributed joblib loky pebble redis rq
BENCH_VENV  := build/bench-venv
BENCH_STAMP := $(BENCH_VENV)/.installed

$(BENCH_STAMP): $(STAMP) tests/bench/peers.txt
	$(BIN)/python -m venv --clear $(BENCH_VENV)
	-$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/bench/peers.txt $(PEERS) && \
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/bench/peers.txt \
	--target $(BENCH_VENV)/arrays numpy && touch $@

.PHONY: bench
bench: $(BENCH_STAMP) ## our speed beside that of other pools, as a table and build/bench.json (ROUNDS=5 ROWS="noop cpu")
	cd tests && ../$(BIN)/python -m bench --rounds $(ROUNDS) --scale $(SCALE) $(if $(ROWS),--rows $(ROWS))

.PHONY: bench-check
bench-check: $(STAMP) ## compare the ratios of the last bench with the stored ones, or store them: BASELINE=write
	cd tests && ../$(BIN)/python -m bench.check $(if $(filter write,$(BASELINE)),--write)

# --- what is shipped ---------------------------------------------------------------------------------------------

# The Python that goes into the bundle, with its C library's version as the floor: the system's own, because it is
# stripped, shared and old. To build for older systems: run this on one, or FREEZE_PYTHON=/opt/python3.12/bin/python3.
FREEZE_PYTHON ?= /usr/bin/python3
FREEZE_VENV   := build/freeze-venv
FREEZE_STAMP  := $(FREEZE_VENV)/.installed
BUNDLE        := dist/taskpool

$(FREEZE_STAMP): deploy/pyinstaller/requirements.txt constraints.txt
	@$(FREEZE_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "$(FREEZE_PYTHON) cannot make virtual environments here. Try: apt-get install python3-venv python3-dev gcc binutils" >&2; exit 1; }
	$(FREEZE_PYTHON) -m venv --clear $(FREEZE_VENV)
	$(FREEZE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r deploy/pyinstaller/requirements.txt
	@touch $@

.PHONY: freeze
freeze: $(FREEZE_STAMP) ## make dist/taskpool: three programs in a folder that needs no Python
	$(FREEZE_VENV)/bin/python deploy/pyinstaller/freeze.py

.PHONY: dist
dist: freeze ## make the tarball, the .deb, the wheel and the sdist in dist/
	$(FREEZE_VENV)/bin/python deploy/debian/package.py

.PHONY: sizes
sizes: $(STAMP) ## print what the frozen programs cost: size, start, memory
	@$(BIN)/python deploy/pyinstaller/measure.py $(BUNDLE)

.PHONY: test-frozen
test-frozen: $(STAMP) ## run the end-to-end tests against dist/taskpool, and those of the packages
	TASKPOOL_BIN=$(CURDIR)/$(BUNDLE) TASKPOOL_REQUIRE_FROZEN=1 $(BIN)/python -m pytest tests/e2e tests/frozen

# With podman or docker. Restricted hosts and hosts without a registry: deploy/container/README.md.
.PHONY: image
image: ## build the container image localhost/taskpool (BASE_IMAGE=..., CONTAINER_ENGINE=docker to choose)
	@$(PYTHON) deploy/container/image.py image

.PHONY: base-image
base-image: ## make the image's base with debootstrap (as root), where no registry can be reached
	@$(PYTHON) deploy/container/image.py base

.PHONY: test-image
test-image: $(STAMP) ## run the tests of the container image, which make image has built
	TASKPOOL_REQUIRE_IMAGE=1 $(BIN)/python -m pytest tests/container

.PHONY: clean
clean: ## remove everything that was made, .venv included
	rm -rf $(VENV) build dist internal/*.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache htmlcov
	rm -f $(KERNEL).*.so $(STATE).*.so $(STATE).*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
