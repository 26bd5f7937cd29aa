# Each target is one line that a person could type.
.PHONY: lab test lint notebooks book bench grade hub binder-check lock clean

lab:  ## set up, then open JupyterLab on the welcome notebook; LAB_ARGS="--no-browser --port 8890"
	python3 bootstrap.py && .venv/bin/cnlab lab $(LAB_ARGS)

test:  ## all that CI runs, several parts at a time; TEST_ARGS="-k cgroup -x" runs one pytest
	python3 bootstrap.py --tests && $(MAKE) lint && .venv/bin/$(if $(TEST_ARGS),pytest $(TEST_ARGS),python tests/side_by_side.py)

lint:  ## style, types, spelling
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/codespell

notebooks:  ## run every notebook as an unprivileged student would
	python3 bootstrap.py --tests && .venv/bin/pytest tests/notebooks

book:  ## run the notebooks and render the book into build/book
	python3 bootstrap.py && .venv/bin/sphinx-build -W --keep-going -b html notebooks build/book

bench:  ## print the figures the course promises, as ratios measured in one run
	python3 bootstrap.py && .venv/bin/python -m bench

grade:  ## run, mark and report what was handed in; ASSIGNMENT=lab01-namespaces GRADE_ARGS="--jobs 4"
	python3 bootstrap.py && .venv/bin/cnlab grade autograde $(ASSIGNMENT) $(GRADE_ARGS) && .venv/bin/cnlab grade feedback $(ASSIGNMENT) && .venv/bin/cnlab grade report $(ASSIGNMENT)

hub:  ## JupyterHub for a class; root: HUB_ARGS=--demo or HUB_ARGS="--instructor alice"
	python3 bootstrap.py --hub && .venv/bin/python -m cnlab.grading.hub $(HUB_ARGS)

binder-check:  ## build Binder's image here and run the notebooks and labs in it; slow, needs root
	python3 bootstrap.py && .venv/bin/python tests/binder/check.py

lock:  ## resolve pyproject.toml's dependencies anew
	python3 bootstrap.py --lock && python3 bootstrap.py

clean:  ## remove everything that was generated, the environment too
	rm -rf .venv build node_modules tests/browser/node_modules && find . -name __pycache__ -prune -exec rm -rf {} +
