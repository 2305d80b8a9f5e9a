#!/usr/bin/env bash
# compute-sanitizer over the kernels: memcheck and racecheck of the prefill attention check's small shapes, and of op tests. About two minutes: what a limit cuts is said.
# usage: scripts/gpu/sanitize.sh OUT      (the CUDA library is built, bun is on the PATH)
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: scripts/gpu/sanitize.sh OUT}
mkdir -p "$out"
build=$(mktemp -d)
flags="-std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a"
for source in scripts/gpu/attention_check.cu cuda/ops/attention_prefill*.cu; do nvcc $flags -c "$source" -o "$build/$(basename "$source").o" & done
wait
nvcc $flags "$build"/*.o -o "$build/attention_check"

# tool, limit in seconds, name, command...
check() {
  local tool=$1 limit=$2 name=$3
  shift 3
  local log="$out/$tool-$name.txt"
  timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all "$@" >"$log" 2>&1
  local code=$?
  local verdict="no error found, exit $code"
  [ $code = 0 ] && verdict=clean
  [ $code = 124 ] && verdict="no error found, cut at $limit s"
  grep -q -E "ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9]" "$log" && verdict="errors"
  printf '| %s | %s | %s | %s |\n' "$tool" "$name" "$verdict" "$(grep -h -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -1 | sed 's/=*//')"
}
echo "| tool | what | verdict | summary |"
echo "|---|---|---|---|"
export KVACCEL_BACKEND=cuda
for tool in memcheck racecheck; do
  check $tool 20 attention "$build/attention_check" few &
  check $tool 45 blocks bun test --timeout 600000 test/ops/blocks.test.ts test/ops/block-scores.test.ts &
  check $tool 45 scores bun test --timeout 600000 test/ops/scores.test.ts test/ops/selection.test.ts &
  check $tool 45 decode bun test --timeout 600000 test/ops/attention.test.ts test/ops/decode-cache.test.ts &
  check $tool 45 codes bun test --timeout 600000 test/plugin/kivi.test.ts test/plugin/kivi-evict.test.ts &
  check $tool 45 pages bun test --timeout 600000 test/ops/pages.test.ts &
  check $tool 45 decoder bun test --timeout 600000 test/ops/decoder.test.ts test/ops/evict.test.ts test/ops/sampling.test.ts &
  wait
done
