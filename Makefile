PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed-demo
	$(BIN)/online-trl demo

# Two workers of two threads each get in each other's way on two cores: what trains takes up to nine times as long.
test: export OMP_NUM_THREADS := 1
test: .venv/installed-test
	.ci/packages
	$(MAKE) lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
	PYTHONPATH=.venv/trl-oldest $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/trainers \
		-k 'not ddp and not zero2 and not ZeRO-2'

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The trainers are tested at both ends of the TRL range: at the pinned release, and at the oldest supported one, which
# lies in a folder of its own. torch comes first and on its own: its pin decides whether the CPU build or a CUDA build is taken.
.venv/installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.$(if $(filter test,$*),[test])'
	$(if $(filter test,$*),$(BIN)/pip install --quiet --no-deps --upgrade --target .venv/trl-oldest trl==1.12.0)
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
