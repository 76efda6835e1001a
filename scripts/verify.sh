#!/usr/bin/env bash
# All checks but the tests. Runs every one, then says which failed; the last line is `verify: N passed, N failed`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

passed=0
failed=()

check() {
  local name=$1 output start=$SECONDS
  shift
  if output=$("$@" 2>&1 </dev/null); then
    passed=$((passed + 1))
    printf 'ok      %s (%s s)\n' "$name" "$((SECONDS - start))"
  else
    failed+=("$name")
    printf 'not ok  %s: %s\n' "$name" "$*"
    printf '%s\n' "$output" | sed 's/^/    /'
  fi
}

folders=(bench cli client compiler coordinator models shared test worker)

check "types" tsc -b
check "format and syntax" biome ci --colors=off --max-diagnostics=100
check "type-aware lint" eslint --max-warnings=0 .
check "dependencies between folders" depcruise --config .dependency-cruiser.cjs "${folders[@]}"
check "dead files and exports" knip --no-progress
check "protos" node scripts/buf.mjs lint
check "generated protos are current" node scripts/gen-protos.mjs --check
check "PTX of the CUDA kernels is current" node scripts/build-ptx.mjs --check

[ ${#failed[@]} -eq 0 ] || printf '\nfailed: %s\n' "$(IFS=,; echo "${failed[*]}" | sed 's/,/, /g')"
printf '\nverify: %d passed, %d failed\n' "$passed" "${#failed[@]}"
[ ${#failed[@]} -eq 0 ]
