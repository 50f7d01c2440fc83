#!/bin/sh
# Installs the programs that `tandem bench` is compared with: PyTorch into bench/peers/.venv, what runs in Node into
# bench/peers/node_modules. Needs Python 3.10 or newer with venv, and npm. One that cannot be installed is said, and
# leaves the others alone. Arguments go to pip: its usual package of PyTorch for Linux brings the libraries of NVIDIA's
# GPUs, 4 GB; an index of CPU builds (--index-url URL) spares them.
set -u
cd "$(dirname "$0")"
failed=0

# Libraries come prebuilt. ONNX Runtime's script would fetch its CUDA part, llama.cpp's might compile.
if ONNXRUNTIME_NODE_INSTALL=skip NODE_LLAMA_CPP_SKIP_DOWNLOAD=true npm install --no-audit --no-fund --no-package-lock --ignore-scripts; then
  for peer in jax_js onnxruntime llama_cpp; do
    if version=$(node ${peer}_bench.mjs --version); then echo "$peer $version is installed."; else failed=1; fi
  done
else
  echo "jax-js, onnxruntime-node and node-llama-cpp are not installed: npm failed." >&2
  failed=1
fi

if [ -n "${TANDEM_PEERS_PYTHON:-}" ]; then
  echo "PyTorch $("$TANDEM_PEERS_PYTHON" torch_bench.py --version) is that of TANDEM_PEERS_PYTHON."
elif python3 -m venv .venv && .venv/bin/python -m pip install --quiet torch numpy "$@"; then
  echo "PyTorch $(.venv/bin/python torch_bench.py --version) is installed."
else
  # Half an installation would count as one.
  rm -rf .venv
  echo "PyTorch is not installed: pip failed." >&2
  failed=1
fi
exit $failed
