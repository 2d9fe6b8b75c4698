# PYTHON       the interpreter to make the environment with; searched for if unset (tools/find-python)
# PYTEST_ARGS  more arguments for pytest, as in: make test PYTEST_ARGS="-k gc"

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# pip compiles what it installs, but not what it only points to. With PYTHONDONTWRITEBYTECODE set, every start of
# the command would compile all over again.
COMPILE := @$(BIN)/python -m compileall -q src/vrfstore

export PYTHON

# Targets share $(VENV): two pips at once would break it.
.NOTPARALLEL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.runtime ## link the example's environment cold, warm and hit; run its report
	$(BIN)/python examples/report/demo.py

.PHONY: runner-demo
runner-demo: $(VENV)/.dev ## render documents as a service does: a miss, hits, eight at once, refused, stopped, and more
	@# A store may protect its directories from writing.
	[ ! -d .demo/runner ] || find .demo/runner -type d -exec chmod u+w {} +
	rm -rf .demo/runner
	tools/node $(BIN)/python examples/runner/demo.js --store .demo/runner --command $(BIN)/vrfstore \
		--python "$$($(BIN)/python -c 'from vrfstore.interpreter import find; print(find(None))')"

.PHONY: test
test: $(VENV)/.dev ## run all tests, hold coverage to its limit
	$(BIN)/coverage erase
	@# One process more than there are processors: tests often wait for the disk, or for a process of their own.
	$(BIN)/coverage run -m pytest --numprocesses $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: check
check: $(VENV)/.dev ## lint, formatting, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.dev ## format the code and mend what the linter can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: lock
lock: $(VENV)/.dev ## renew requirements/dev.txt
	tools/lock $(BIN)/uv

.PHONY: lower-bounds
lower-bounds: $(VENV)/.dev ## run the hermetic tests with the oldest dependencies allowed
	tools/lower-bounds $(BIN)/python $(BIN)/uv

.PHONY: corpus
corpus: $(VENV)/.dev ## unpack 200 real wheels and compare each with what pip installs
	$(BIN)/python tests/corpus.py

.PHONY: parity
parity: $(VENV)/.dev ## compare environments of real packages with venvs made by pip, on every Python found
	$(BIN)/python tests/parity.py

.PHONY: resolvers
resolvers: $(VENV)/.dev ## lock real requirement sets with pip and with uv, on every Python found, and compare
	$(BIN)/python tests/resolvers.py

.PHONY: kill-all
kill-all: $(VENV)/.dev ## kill everything at every step, not only at a sample of them
	$(BIN)/python -m pytest --kill-all -k "killed" tests

.PHONY: gc-machine
gc-machine: $(VENV)/.dev ## let the state machine of gc run for ten minutes
	$(BIN)/python -m pytest --machine-seconds 600 tests/test_gc_machine.py

.PHONY: soak
soak: $(VENV)/.dev ## link, collect and read side by side on one store for ten minutes
	$(BIN)/python tests/soak.py

.PHONY: exhaustive
exhaustive: $(VENV)/.dev ## run every row of the tables of venv and of installers, on every Python found
	$(BIN)/python -m pytest --exhaustive --numprocesses auto -m exhaustive

.PHONY: fuzz
fuzz: $(VENV)/.dev ## feed mutated wheels to the store for ten minutes
	tools/fuzz

.PHONY: dist
dist: $(VENV)/pyvenv.cfg ## build the wheel, install it into a fresh environment, start it
	tools/dist $(BIN)/python

.PHONY: bench
bench: $(VENV)/.dev ## compare with uv, pip, PDM and pex, in half an hour
	$(BIN)/python benchmarks/compare.py

.PHONY: bench-quick
bench-quick: $(VENV)/.dev ## compare with uv and pip on small sets, in three minutes
	$(BIN)/python benchmarks/compare.py --effort quick

.PHONY: bench-full
bench-full: $(VENV)/.dev ## compare with everybody on everything, however long it takes
	$(BIN)/python benchmarks/compare.py --effort full

.PHONY: bench-micro
bench-micro: $(VENV)/.dev ## measure the pure parts, and compare with the run that was kept; KEEP=1 keeps this one
	$(BIN)/python benchmarks/pure.py $(if $(KEEP),--keep)

.PHONY: bench-linking
bench-linking: $(VENV)/.dev ## measure linking the document stack beside uv, part by part
	$(BIN)/python benchmarks/linking.py

.PHONY: bench-fetching
bench-fetching: $(VENV)/.dev ## measure fetching a hundred wheels from loopback beside uv
	$(BIN)/python benchmarks/fetching.py

.PHONY: bench-archives
bench-archives: $(VENV)/.dev ## measure export and import beside tar with gzip
	$(BIN)/python benchmarks/archives.py

.PHONY: bench-resolving
bench-resolving: $(VENV)/.dev ## measure resolving the document stack beside pip and uv themselves
	$(BIN)/python benchmarks/resolving.py

.PHONY: bench-collecting
bench-collecting: $(VENV)/.dev ## measure gc on large stores, and what users notice of it
	$(BIN)/python benchmarks/collecting.py

.PHONY: bench-node
bench-node: $(VENV)/.dev ## measure hits from Node, one after another and 16 at once
	tools/node $(BIN)/python clients/node/bench/hits.js examples/report/requirements.vrf \
		--store .demo/bench-node --command $(CURDIR)/$(BIN)/vrfstore \
		--python "$$($(BIN)/python -c 'from vrfstore.interpreter import find; print(find(None))')"

.PHONY: clean
clean: ## remove everything that was made here
	@# A store may protect its directories from writing.
	[ ! -d .demo ] || find .demo -type d -exec chmod u+w {} +
	rm -rf $(VENV) .demo .corpus .parity .bench-wheels examples/report/out build dist .coverage .coverage.* \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests examples benchmarks -name __pycache__ -type d -exec rm -rf {} +

# An environment is of no use once the interpreter behind it has been removed: its link dangles then.
ifeq ($(shell test -x $(BIN)/python || echo gone),gone)
.PHONY: $(VENV)/pyvenv.cfg
endif
$(VENV)/pyvenv.cfg:
	tools/make-venv $(VENV)

# Stamps: what they depend on says when installing again is needed.
$(VENV)/.runtime: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) install --editable .
	$(COMPILE)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) install --require-hashes --requirement requirements/dev.txt
	$(PIP) install --no-deps --editable .
	$(COMPILE)
	@touch $@ $(VENV)/.runtime
