#!/bin/sh
# Installs PyTorch for the comparison of `tandem bench` into bench/peers/.venv. Needs Python 3.10 or newer with venv.
# Arguments go to pip. Its usual package for Linux brings the libraries of NVIDIA's GPUs, 4 GB; an index of CPU builds
# (--index-url URL) spares them.
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/python -m pip install --quiet torch numpy "$@"
echo "PyTorch $(.venv/bin/python torch_bench.py --version) is installed."
