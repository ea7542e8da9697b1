# Nothing to install beforehand but Python 3.11 or later with venv, and make.
# The newest that works; a version manager's placeholder for one that is not chosen does not.
PYTHON ?= $(firstword $(foreach version,13 12 11,$(shell python3.$(version) -c 'import ensurepip, venv' 2>/dev/null && echo python3.$(version))))
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: install demo test lint bench soak lock

install: $(VENV)/installed

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes

# What runs, and what tests: a company's server needs the first alone.
$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(PIP_INSTALL) -r requirements.lock
	touch $@

$(VENV)/installed-for-tests: $(VENV)/installed requirements-test.lock
	$(RUN) $(PIP_INSTALL) -r requirements-test.lock
	touch $@

demo: install
	@$(RUN) -m tests.sandbox.demo

test: $(VENV)/installed-for-tests
	env -u PYTHONDONTWRITEBYTECODE $(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadscope --no-loadscope-reorder

lint: $(VENV)/installed-for-tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/installed-for-tests
	$(RUN) -m tests.bench

# Half an hour each; what they print at the end are the figures.
soak: $(VENV)/installed-for-tests
	$(RUN) -m tests.chaos --minutes 30
	$(RUN) -m tests.chaos --minutes 30 --database postgresql --key
	$(RUN) -m tests.soak --minutes 30

PIP_COMPILE := pip-compile --quiet --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe

lock:
	$(PIP_COMPILE) --extra demo -o requirements.lock pyproject.toml
	$(PIP_COMPILE) --extra demo --extra test --constraint requirements.lock -o requirements-test.lock pyproject.toml
