.PHONY: venv test test-fast lint docs demo bench

PYTHON_OF_VENV = .venv/bin/python

venv:  ## .venv with everything, tests' packages included
	bash -c '. ./environment.sh && make_environment "$$DEPENDENCIES" export-dependencies.txt tests/dependencies.txt'

test:  ## all tests
	bash tests/run.sh -q -n logical

test-fast:  ## tests without the slow ones, on all cores
	bash tests/run.sh -q -n logical -m "not slow"

lint: venv  ## style, types, and which package may import which
	$(PYTHON_OF_VENV) -m ruff check .
	$(PYTHON_OF_VENV) -m mypy
	.venv/bin/lint-imports

docs: venv  ## the pages that are generated from the code
	for page in docs/make_*.py; do $(PYTHON_OF_VENV) $$page || exit; done

demo:  ## the whole method on a small drawn data set
	bash demo/run.sh

bench: venv  ## speed, part by part, compared with a plain implementation of the published way
	for name in crf inference iterator training_step; do $(PYTHON_OF_VENV) benchmarks/$$name.py || exit; done
