# `make demo` and `make test` need nothing but Python 3.11; everything else goes into .venv.
PYTHON ?=
export PYTHON WHEELHOUSE
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes that share the tests file by file: one a core, but four at most.
WORKERS ?= logical
APP ?= radiology

.PHONY: help demo test check format wheelhouse clean

help:
	@echo "make demo                 install, make sample data, train a starter model, serve it on http://127.0.0.1:8000"
	@echo "make demo APP=pathology   the same with slides, for QuPath"
	@echo "make test                 install and run all tests (make test ARGS='tests/cli -x' runs some of them;"
	@echo "                          WORKERS=0 in one process, as --pdb needs)"
	@echo "make check                ruff, pyright, import-linter"
	@echo "make format               let ruff put the code in order"
	@echo "make wheelhouse           download everything once, for machines without a network"
	@echo "make clean                remove .venv and the demos' working copies"

demo: $(VENV)/.installed-runtime
	@$(BIN)/overread demo $(APP) $(ARGS)

# Bytecode is kept, also where a container's environment says otherwise: every worker and child would compile all again.
test: $(VENV)/.installed-dev
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check lib tests apps
	$(BIN)/ruff format --check lib tests apps
	$(BIN)/pyright lib apps
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix lib tests apps
	$(BIN)/ruff format lib tests apps

# Installed again only when the project's dependencies changed.
$(VENV)/.installed-runtime: pyproject.toml constraints.txt
	@.ci/install
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	@.ci/install dev
	@touch $(VENV)/.installed-runtime $@

wheelhouse: $(VENV)/.installed-runtime
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip wheel --wheel-dir wheelhouse \
		".[dev]" hatchling editables pip setuptools wheel uv

clean:
	rm -rf $(VENV) .demo .demo-pathology
