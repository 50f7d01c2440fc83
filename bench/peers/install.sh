#!/bin/sh
# Installs PyTorch for the comparison of `tandem bench` into bench/peers/.venv. Needs Python 3.10 or newer with venv.
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/python -m pip install --quiet torch numpy
echo "PyTorch $(.venv/bin/python torch_bench.py --version) is installed."
