#!/usr/bin/env bash
# Everything that docs/measurements/ shows of a card, in about seven minutes: layer and end-to-end rows, methods, scaling, a 23 GiB limit,
# PyTorch's attention and transformers in the same run, loading, the bundled model on the CPU beside PyTorch's. The libraries are built and bun is on the PATH.
# usage: scripts/gpu/measure.sh OUT
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: scripts/gpu/measure.sh OUT}
mkdir -p "$out"
start=$SECONDS
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
git log -1 --format=%h 2>/dev/null | tee -a "$out/device.txt"
step() { # limit, name, command...
  local limit=$1 name=$2
  shift 2
  timeout "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.err"
  local code=$?
  echo "-- $name: exit $code, at $((SECONDS - start)) s"
  cat "$out/$name.txt"
}
BENCH=layer,end step 150 bench bun scripts/bench.ts "$out"
step 35 peers-attention python3 scripts/gpu/attention_peers.py
step 75 peers-transformers python3 scripts/gpu/transformers_peer.py "$out/transformers.json"
mkdir -p "$out/more"
BENCH=scaling,limit,methods,long step 215 bench-more bun scripts/bench.ts "$out/more"
step 45 loading bun scripts/gpu/loading.ts /tmp/loading
step 40 peers-cpu scripts/cpu-peer.sh 8 python3
