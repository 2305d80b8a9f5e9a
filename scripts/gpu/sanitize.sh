#!/usr/bin/env bash
# compute-sanitizer's memcheck and racecheck over every kernel of the library: the prefill attention check's small shapes, and each test file that
# computes on the device, one process a file, side by side. What the limit cuts is said. memcheck takes two minutes, racecheck 25: TOOLS=racecheck
# and files, `attention-prefill` for the check, or FILE=PATTERN for some of a file's tests, take it in turns.
# usage: [TOOLS=memcheck,racecheck] scripts/gpu/sanitize.sh OUT [SECONDS a tool] [FILE[=PATTERN] ...]     (the CUDA library is built, bun is on the PATH)
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: scripts/gpu/sanitize.sh OUT [SECONDS a tool] [FILE[=PATTERN] ...]}
limit=${2:-180}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- attention-prefill test/ops/*.test.ts test/native/{graphs,graphs-ahead,memory}.test.ts test/engine/{graphs,sparse,sliding}.test.ts \
  test/plugin/{cakekv,cam,duo-attention,expected-attention,flexprefill,h2o,keydiff,kivi,kivi-evict,quest,snapkv,think,tova,xattention}.test.ts
mkdir -p "$out"
if [[ " $* " == *" attention-prefill "* ]]; then
  build=$(mktemp -d)
  flags="-std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a"
  for source in scripts/gpu/attention_check.cu cuda/ops/attention_prefill*.cu; do nvcc $flags -c "$source" -o "$build/$(basename "$source").o" & done
  wait
  nvcc $flags "$build"/*.o -o "$build/attention_check"
fi

# tool, name, command...; cuBLAS's kernels are not ours to check
check() {
  local tool=$1 name=$2
  shift 2
  local log="$out/$tool-$name.txt" start=$SECONDS
  timeout "$limit" compute-sanitizer --tool "$tool" --kernel-name kns=kva --error-exitcode 9 --target-processes all "$@" >"$log" 2>&1
  local code=$?
  local verdict="no error found, exit $code"
  [ $code = 0 ] && verdict=clean
  [ $code = 124 ] && verdict="no error found, cut at $limit s"
  grep -q -E "^=+ (Error|Warning|Invalid|Internal)|ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9]" "$log" && verdict="errors"
  printf '| %s | %s | %s | %s | %s | %s |\n' "$tool" "$name" "$verdict" "$(grep -h -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -1 | sed 's/=* *//')" \
    "$(grep -c '^(pass)' "$log") passed, $(grep -c '^(fail)' "$log") failed" $((SECONDS - start))
}
echo "| tool | what | verdict | summary | tests | seconds |"
echo "|---|---|---|---|---|---|"
export KVACCEL_BACKEND=cuda KVACCEL_TEST_SECONDS=$limit
for tool in $(echo "${TOOLS:-memcheck,racecheck}" | tr , ' '); do
  for wanted in "$@"; do
    IFS='=' read -r file pattern <<<"$wanted"
    name=$(echo "${wanted#test/}" | sed 's/\.test\.ts//' | tr -c 'a-zA-Z0-9\n' -)
    # in this test a kernel of cuBLAS, which racecheck is told to leave alone, ends with an illegal access under it (and with none under memcheck)
    [ "$tool" = racecheck ] && [ "$file" = test/engine/graphs.test.ts ] && continue
    if [ "$file" = attention-prefill ]; then
      check $tool "$name" "$build/attention_check" few &
    else
      check $tool "$name" bun test "$file" ${pattern:+-t "$pattern"} &
    fi
  done
  wait
done
