# In an activated virtual environment; `make install` comes first. `make ci` runs what CI runs, in one of its own.
.PHONY: install lint format type test ci bench cuda-rehearsal

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

# torch's CUDA build (4.7 GB) in an environment of its own, and every model on a GPU that is not there
cuda-rehearsal:
	python -m venv build/cuda
	build/cuda/bin/pip install -r tests/cuda_rehearsal/requirements.txt
	build/cuda/bin/pip install --no-deps -e .
	build/cuda/bin/python -m pytest -n 0 -m cuda_build tests/cuda_rehearsal
