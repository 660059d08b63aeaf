# Everything a newcomer or CI needs, each from nothing: the first target to run makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow bench bench-zoo lint clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep ^torch== constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/genloom fit gan mnist --minutes 3 --out runs/demo
	$(BIN)/genloom sample runs/demo -n 100 --out runs/demo/samples/hundred
	$(BIN)/genloom evaluate runs/demo
	@echo "grid    runs/demo/samples/grid.png"
	@echo "film    runs/demo/samples/progress.webp"
	@echo "report  runs/demo/report.html"

test: $(READY)
	$(BIN)/python -m pytest

# one after another and on all cores: what is reached in some minutes is measured
test-slow: $(READY)
	OMP_NUM_THREADS=$$(getconf _NPROCESSORS_ONLN) $(BIN)/python -m pytest -n 0 -m slow

bench-zoo: $(READY)
	$(BIN)/python -m benchmarks.board
	$(BIN)/python -m benchmarks.kinds

bench: $(READY)
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.board
	$(BIN)/python -m benchmarks.kinds

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) dist runs .pytest_cache .mypy_cache .ruff_cache
