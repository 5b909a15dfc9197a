# make demo   a whole run on a real chest CT, from annotated slices to segmentation, into demo-output/
# make test   ruff, then all tests with coverage
# make screenshots   pictures of the panel for the README, made on the sample without Slicer (four minutes)
# make clean  remove the environment and everything that was made
#
# Both set up their own environment in .venv when it is missing or out of date.
# `make PYTHON=/path/to/python3` chooses the interpreter it is made with.

export PYTHON

.PHONY: demo test screenshots clean

demo: .venv/demo.installed
	.venv/bin/sparse-unet3d demo --output demo-output --overwrite

test: .venv/test.installed
	.venv/bin/ruff check .
	.venv/bin/python -m pytest --cov

screenshots: .venv/test.installed
	.venv/bin/python Testing/Panel/screenshots.py Documentation

.venv/%.installed: Testing/environment.sh Testing/requirements.txt pyproject.toml
	Testing/environment.sh $*
	touch $@

clean:
	rm -rf .venv demo-output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov
	find SparseUNet3DLib Testing -name __pycache__ -prune -exec rm -rf {} +
