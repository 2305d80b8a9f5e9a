#!/usr/bin/env bash
# The bundled model's prefill and decode on the CPU, ours and PyTorch's (transformers), same threads, in turns of one run.
# usage: scripts/cpu-peer.sh [THREADS] [PYTHON]     (PYTHON has torch and transformers)
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-$(nproc)}
python=${2:-python3}
for dtype in float32 bfloat16; do
  for turn in 1 2; do
    echo "ours, $dtype, $threads threads, turn $turn"
    bun src/main.ts bench --model_path bundled --device cpu --threads "$threads" --torch_dtype $dtype -p 0 -n 32 -d 0,512,2048 -r 3 -o json 2>/dev/null |
      bun -e 'for (const r of JSON.parse(await Bun.stdin.text())) console.log(JSON.stringify({ prompt: Math.max(1, r.n_depth), prefill_ms: r.ttft_ms, token_ms: r.ms_per_token_p50 }))'
    echo "PyTorch, $dtype, $threads threads, turn $turn"
    "$python" scripts/cpu_peer.py models/tiny-ruler "$threads" $dtype 2>/dev/null
  done
done
