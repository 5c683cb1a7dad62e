# Two commands for users, the rest for developers; each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test test-full notebook drill bench check format clean parity

study: .venv/study
	$(BIN)/kdjax study --config=configs/study/quickstart.py --workdir=runs/quickstart

# Long files come early as they are; after a worker's crash xdist may wait for ever.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# And every form of every objective on every mesh, of one process and of two.
test-full: test
	$(BIN)/python -m pytest -rP -v tests/objectives/full_product.py

# The first notebook at its own settings; open the copy in runs/notebook to look at it.
notebook: .venv/test
	mkdir -p runs/notebook
	cp colab/quickstart.ipynb runs/notebook
	$(BIN)/jupyter-execute --inplace runs/notebook/quickstart.ipynb

# A run that is killed at random moments ends as one that never was.
drill: .venv/test
	$(BIN)/python -u tests/training/drill.py

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck -x launch/*.sh .ci/*

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/study: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[data]"
	touch $@

.venv/test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

# How fast kdjax is against PyTorch on this machine; best with nothing else running.
bench: .venv/parity
	.venv-parity/bin/python -m benchmarks.speed

# The golden files once more, from the original code, and our exports opened by it.
parity: .venv/parity .venv/flax
	rm -rf .venv/golden
	cd tests/golden && for made in huggingface_clip siglip open_clip manifests; do \
		../../.venv-parity/bin/python make_$$made.py ../../.venv/golden/$$made || exit 1; done
	cd tests/golden && for made in parameter_counts position_embeddings; do \
		../../.venv-parity/bin/python make_$$made.py ../../.venv/golden || exit 1; done
	cd tests/golden && PYTHONPATH=../../.venv-parity/torchvision \
		../../.venv-parity/bin/python make_pixels.py ../../.venv/golden
	cd tests/golden && ../../.venv-flax/bin/python make_flax_clip.py ../../.venv/golden/flax_clip
	.venv-parity/bin/python tests/golden/compare.py tests/golden .venv/golden
	cd tests/golden && ../../.venv-parity/bin/python check_exports.py

.venv/parity: pyproject.toml .venv/study
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check \
		torch==2.13.0 transformers==5.23.0 -e .
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		open_clip_torch==3.3.0 timm==1.0.31 ftfy wcwidth
	# Beside the rest, which is made as if there were none.
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target .venv-parity/torchvision torchvision==0.28.0
	touch $@

.venv/flax: .venv/study
	$(PYTHON) -m venv .venv-flax
	.venv-flax/bin/python -m pip install --quiet --disable-pip-version-check \
		transformers==4.49.0 flax==0.8.5 jax==0.4.34 jaxlib==0.4.34 numpy==2.4.6 scipy==1.17.1
	touch $@

clean:
	rm -rf .venv .venv-parity .venv-flax runs
