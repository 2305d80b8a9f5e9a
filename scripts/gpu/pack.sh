#!/usr/bin/env bash
# Packs what scripts/gpu/all.sh unpacks on a machine with neither node nor registry: bun and the packages that run (no linter), into .gpu/.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .gpu
[ .gpu/bun.xz -nt node_modules/bun/bin/bun.exe ] || xz -T0 -9 -c node_modules/bun/bin/bun.exe >.gpu/bun.xz
tar -C node_modules --exclude=./bun --exclude=./@oven --exclude=./@biomejs --exclude=./.bin --exclude=./.installed --exclude='*.map' --exclude=./bun-types --exclude=./@types --exclude=./playwright-core \
  -c . | xz -T0 -6 >.gpu/modules.tar.xz
du -ch .gpu/bun.xz .gpu/modules.tar.xz
