# Everything runs in .venv, which the first target makes from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-long lint bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[pretrained,synthetic,dev]"
	touch $@

demo: $(READY)
	$(BIN)/python -m shards.build --source synthetic --output demo-data
	$(BIN)/deepspeed --quiet launchers/train.py --config configs/demo.yaml
	@test -f runs/demo/done.json && echo "Open runs/demo/report.html"

test: $(READY)
	$(BIN)/python -m pytest -n 2

test-long: $(READY)
	$(BIN)/python -m pytest -n 2 -m "long and not gpu"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/crf.py --windows 1 4 16
	$(BIN)/python benchmarks/loader.py --shards demo-data

clean:
	rm -rf .venv build *.egg-info
