# make demo   a whole run on a real chest CT, from annotated slices to segmentation, into demo-output/
# make test   ruff, then all tests with coverage
# make screenshots   pictures of the panel for the README, made on the sample without Slicer (four minutes)
# make benchmark    this program beside what users have today, on volumes from packages, into benchmark-output/
#             (hours; goes on where it was interrupted); DATA=folder for the volumes of
#             Testing/Benchmarks/sparse_tasks.py, OPTIONS="--minutes 1 --seeds 0" for less,
#             REPORT="BENCHMARKS.md Documentation" to put tables and plots there
# make benchmark-gpu   speed on a GPU; needs no network connection once `make benchmark` or `make test` has run
# make clean  remove the environment and everything that was made
#
# All but the last two set up their environment in .venv when it is missing or out of date.
# `make PYTHON=/path/to/python3` chooses the interpreter it is made with.

export PYTHON

.PHONY: demo test screenshots benchmark benchmark-gpu clean

demo: .venv/demo.installed
	.venv/bin/sparse-unet3d demo --output demo-output --overwrite

# File by file and in their order: the module's tests reload the library, which tests of it must not see after them.
test: .venv/test.installed
	.venv/bin/ruff check .
	.venv/bin/python -m pytest --cov -n 2 --dist loadfile --no-loadscope-reorder

screenshots: .venv/test.installed
	.venv/bin/python Testing/Panel/screenshots.py Documentation

benchmark: .venv/benchmark.installed
	.venv/bin/python Testing/Benchmarks/benchmark.py $(if $(DATA),--data $(DATA)) --out benchmark-output $(OPTIONS)
	.venv/bin/python Testing/Benchmarks/report.py benchmark-output $(REPORT)

benchmark-gpu:
	PYTHONPATH=. $(if $(wildcard .venv/bin/python),.venv/bin/python,python3) Testing/Benchmarks/gpu.py $(if $(DATA),--data $(DATA)) $(OPTIONS)

.venv/%.installed: Testing/environment.sh Testing/requirements.txt pyproject.toml
	Testing/environment.sh $*
	touch $@

clean:
	rm -rf .venv demo-output benchmark-output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov
	find SparseUNet3DLib Testing -name __pycache__ -prune -exec rm -rf {} +
