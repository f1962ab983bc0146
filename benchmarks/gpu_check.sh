#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go of under 9 minutes: the tests marked `gpu`, then the engine benchmark on
# the device. Run from anywhere, with a python that has torch with CUDA, pytest, numpy, sentencepiece and safetensors:
#
#   PYTHON=.venv/bin/python benchmarks/gpu_check.sh [RESULT.json]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
result=${1:-benchmarks/results/engines-cuda.json}

"$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no CUDA device: run this where nvidia-smi lists one"; print(torch.__version__, torch.cuda.get_device_name())'
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
timeout 270 "$python" -m pytest tests -m gpu -p no:cacheprovider --durations=5
timeout 240 "$python" benchmarks/test_engines.py --device cuda -o "$result"
