# Nothing to install beforehand but Python 3.11 with venv, and make.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: install demo test lint bench soak lock

install: $(VENV)/installed

$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

demo: install
	@$(RUN) -m tests.sandbox.demo

test: install
	env -u PYTHONDONTWRITEBYTECODE $(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadscope --no-loadscope-reorder

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: install
	$(RUN) -m tests.bench

# Half an hour each; what they print at the end are the figures.
soak: install
	$(RUN) -m tests.chaos --minutes 30
	$(RUN) -m tests.chaos --minutes 30 --database postgresql --key
	$(RUN) -m tests.soak --minutes 30

lock:
	pip-compile --quiet --extra test --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe -o requirements.lock pyproject.toml
