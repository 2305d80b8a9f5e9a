#!/usr/bin/env bash
# Everything that docs/measurements/ shows of a card: layer and end-to-end rows, PyTorch's attention and transformers in the same run, a 23 GiB
# limit, loading, methods, scaling, a million tokens, the bundled model on the CPU. The libraries are built and bun is on the PATH. The most
# important comes first: what does not fit into SECONDS is left out. With two GPUs the peers run on the second one meanwhile.
# usage: scripts/gpu/measure.sh OUT [SECONDS]       (default 420)
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: scripts/gpu/measure.sh OUT [SECONDS]}
limit=${2:-420}
mkdir -p "$out"
SECONDS=0
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
gpus=$(wc -l <"$out/device.txt")
[ "$limit" -lt 400 ] && export BENCH_QUICK=1

step() { # seconds that it needs at most, name, command...
  local most=$1 name=$2 left=$((limit - SECONDS))
  shift 2
  [ "$left" -lt 12 ] && { echo "-- $name: no time left" >>"$out/steps.txt"; return; }
  timeout -k 2 $((left < most ? left : most)) "$@" >"$out/$name.txt" 2>"$out/$name.err"
  echo "-- $name: exit $?, ends at $SECONDS s" >>"$out/steps.txt"
}
bench() { # seconds, name, parts; rows that do not fit into them say so
  local left=$((limit - SECONDS))
  BENCH_SECONDS=$(((left < $1 ? left : $1) - 5)) BENCH=$3 step "$1" "$2" bun scripts/bench.ts "$out/$2"
}
ours() {
  BENCH_ROWS=131072,32768,4096 bench 45 layer layer
  bench 130 end end
}
peers() {
  step 40 peers-attention python3 scripts/gpu/attention_peers.py
  step 90 peers-transformers python3 scripts/gpu/transformers_peer.py "$out/transformers.json"
}
more() {
  bench 110 limit limit
  step 60 loading bun scripts/gpu/loading.ts /tmp/loading
}
rest() {
  bench 60 methods methods
  bench 60 long long
  bench 110 scaling scaling
  step 40 peers-cpu scripts/cpu-peer.sh 8 python3
}
if [ "$gpus" -ge 2 ]; then
  (
    export CUDA_VISIBLE_DEVICES=1
    peers
    rest
  ) &
  CUDA_VISIBLE_DEVICES=0 ours
  CUDA_VISIBLE_DEVICES=0 more
  wait
else
  ours
  peers
  more
  rest
fi
cat "$out/steps.txt"
for name in layer end peers-attention peers-transformers limit loading methods long scaling peers-cpu; do
  [ -s "$out/$name.txt" ] && { echo "## $name"; cat "$out/$name.txt"; tail -2 "$out/$name.err"; }
done
