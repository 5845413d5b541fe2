PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed-demo
	$(BIN)/online-trl demo

test: .venv/installed-test
	$(MAKE) lint
	$(BIN)/pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# torch comes first and on its own: its pin decides whether the CPU build or a CUDA build is taken.
.venv/installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.$(if $(filter test,$*),[test])'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
