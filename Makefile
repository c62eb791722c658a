# In an activated virtual environment; `make install` comes first. `make ci` runs what CI runs, in one of its own.
.PHONY: install lint format type test ci bench

install:
	pip install -c constraints.txt -e '.[test]'

lint:
	ruff check
	ruff format --check

format:
	ruff check --fix
	ruff format

type:
	mypy

test:
	pytest

ci:
	.ci/run

bench:
	causvid bench
