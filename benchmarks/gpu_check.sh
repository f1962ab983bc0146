#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go of under 9 minutes: the tests marked `gpu`, then the engine benchmark on
# the device. Run from anywhere, with a python that has torch with CUDA, pytest, numpy, sentencepiece, safetensors and
# transformers. What is installed beside (tensorrt, tensorrt-rtx, torch-tensorrt, onnx with onnxruntime-gpu) is tested and
# timed too; a test whose package is missing is skipped and names it.
#
#   PYTHON=.venv/bin/python benchmarks/gpu_check.sh [RESULT.json]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
result=${1:-benchmarks/results/engines-cuda.json}

"$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no CUDA device: run this where nvidia-smi lists one"; print(torch.__version__, torch.cuda.get_device_name())'
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
# only the files that have such a test: others want packages that a GPU machine need not have
mapfile -t files < <(grep -lE 'mark\.gpu|RUNNABLE|WRITABLE' tests/test_*.py)
timeout 290 "$python" -m pytest "${files[@]}" -m gpu -p no:cacheprovider --durations=5
timeout 240 "$python" benchmarks/test_engines.py --device cuda -o "$result"
