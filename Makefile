# Every target sets up what it needs: Python 3.11 or newer with venv, and make, are enough.
# PYTHON, TESTS and ARGS can be given: make test ARGS="-k merge"

SHELL := /bin/bash
.DEFAULT_GOAL := help
LOCK := requirements/dev.lock
READY := .venv/.made-from-lock
PRESS := .venv/.made-for-compress
BENCH := .venv/.made-for-bench
SHOAL := build/models/shoal/held-out.txt
BIN := .venv/bin
ARGS ?=
# One more than there are cores: nodes that wait for each other leave some of the time free.
WORKERS ?= $(shell expr $$(nproc) + 1)
EXAMPLES ?= 2000
FAULTS ?= 200
NODES ?= 30
PYTEST := $(BIN)/python -m pytest

# The first interpreter that really starts and is new enough (a shim may exist and refuse).
FIND_PYTHON = for p in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then command -v "$$p"; break; fi; done

.PHONY: help .venv new-venv lock check format quick test deep fuzz faults soak fleet simulate bench models demo clean

help:
	@echo "make demo     three sites on this machine: decide, cut one off, heal, converge"
	@echo "make test     the tests, as CI runs them"
	@echo "make deep     what make test has shown once, on other versions, layouts and sizes"
	@echo "make quick    less than a minute: what needs no database, the documents, the simulation"
	@echo "make check    lint, format, types, layers"
	@echo "make format   mend what the linter and the formatter can"
	@echo "make fuzz     random histories against the oracle, and of faults in a mesh: EXAMPLES=2000 FAULTS=200"
	@echo "make faults   every fault in every shape of mesh, under load: NODES=3, 5 or 8; ARGS=\"-k ring\""
	@echo "make soak     a hub and three edges under load and faults for an hour, bounds asserted: SECONDS=3600"
	@echo "make fleet    thirty real nodes on this machine, one hub killed: some minutes, 4 GB of memory: NODES=30"
	@echo "make simulate a thousand nodes, simulated: calm, and with failures"
	@echo "make bench    the benchmarks, all of them: hours, on a machine that does nothing else"
	@echo "make models   train the models that come with the package anew: an hour, in an environment of its own"
	@echo "make lock     choose dependencies anew and write $(LOCK)"

.venv: $(READY)
	@:

# The mark is a copy of the lock: a lock that was written again without a change makes nothing anew.
$(READY): $(LOCK)
	@if cmp -s $(LOCK) $@; then touch $@; else $(MAKE) --no-print-directory new-venv; fi

new-venv:
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
		echo "error: Python 3.11 or newer with venv is needed (Debian: apt install python3-venv)" >&2; exit 1; fi; \
	echo "making .venv with $$($$python --version) (once, some minutes at most)" >&2; \
	rm -rf .venv && "$$python" -m venv .venv
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --root-user-action=ignore \
		--require-hashes -r $(LOCK)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --root-user-action=ignore \
		--no-deps --no-build-isolation -e .
	@cp $(LOCK) $(READY)

# Where torch cannot be had, everything else is tested all the same, and the next run tries again.
$(PRESS): requirements/compress.in $(READY)
	@install="$(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --root-user-action=ignore"; \
	if $$install "$$(grep ^torch $<)" && $$install -r $<; then cp $< $@; \
	else echo "warning: torch could not be installed: the tests of compressing are skipped" >&2; fi

lock:
	@python="$$($(FIND_PYTHON))"; rm -rf build/lock && "$$python" -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check install --quiet --quiet --root-user-action=ignore uv
	@build/lock/bin/uv pip compile pyproject.toml requirements/dev.in --group dev --extra query --upgrade --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--quiet --output-file $(LOCK)

check: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@mkdir -p build; $(BIN)/lint-imports --no-cache >build/layers.txt 2>&1 || { cat build/layers.txt; exit 1; }

format: $(READY)
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

quick: $(READY) $(PRESS)
	@$(PYTEST) -q -n $(WORKERS) --dist loadfile -m "not slow and not mesh" tests/unit tests/docs tests/simulation $(ARGS)

test: $(READY) $(PRESS)
	@$(PYTEST) -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not deep" $(ARGS)

deep: $(READY) $(PRESS)
	@$(PYTEST) -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m deep $(ARGS)

fuzz: $(READY)
	@ATOLL_EXAMPLES=$(EXAMPLES) ATOLL_FAULTS=$(FAULTS) $(PYTEST) -q -n $(WORKERS) --dist loadfile \
		tests/unit/test_state_laws.py tests/database/test_*histories.py tests/database/test_scopes.py \
		tests/mesh/test_faults.py tests/conformance/test_interfaces.py $(ARGS)

faults: $(READY)
	@ATOLL_FAULT_NODES=$(if $(filter command%,$(origin NODES)),$(NODES),3) $(PYTEST) -q -s tests/mesh/test_faults_everywhere.py $(ARGS)

soak: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak.run --seconds $(if $(filter command%,$(origin SECONDS)),$(SECONDS),3600) $(ARGS)

fleet: $(READY)
	@ATOLL_FLEET=$(NODES) $(PYTEST) -q -s tests/mesh/test_thirty.py $(ARGS)

simulate: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m simulation.run $(ARGS)

# A benchmark that fails does not keep the others from being run.
bench: $(READY) $(PRESS) $(BENCH) $(SHOAL)
	@failed=""; for file in benchmarks/[a-z]*.py; do \
		echo "== $$file"; $(BIN)/python "$$file" || failed="$$failed $$file"; echo; \
	done; if [ -n "$$failed" ]; then echo "error: these failed:$$failed" >&2; exit 1; fi

$(BENCH): requirements/bench.in $(READY)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --root-user-action=ignore -r $<
	@cp $< $@

# The model that compressing and training are measured on: not long trained, which is enough to compare.
$(SHOAL): | $(PRESS)
	@echo "training a small model to measure on (once, some minutes)" >&2
	@$(BIN)/python examples/models/shoal/train.py --steps 300

TRAIN := build/train
PIP := $(TRAIN)/bin/python -m pip --disable-pip-version-check install --quiet --root-user-action=ignore
RECIPES := bearing/train.py digits/train.py keyword/train.py pebble/train.py pebble/export.py pebble/evaluate.py

models:
	@python="$$($(FIND_PYTHON))"; test -x $(TRAIN)/bin/python || "$$python" -m venv $(TRAIN)
	@$(PIP) "$$(grep ^torch requirements/train.in)" && $(PIP) -r requirements/train.in
	@for file in $(RECIPES); do echo "== $$file"; nice $(TRAIN)/bin/python "examples/models/$$file" || exit 1; done
	@$(TRAIN)/bin/python examples/models/ship.py bearing digits keyword pebble

demo: $(READY)
	@$(BIN)/atoll demo $(ARGS)

clean:
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
