#!/usr/bin/env bash
# Everything a fresh clone needs, and nothing twice: system packages, node_modules, dist/.
# Says only what it does; with nothing to do it says nothing.
# --tests: also what tests alone need, a C++ compiler and the CUDA look-alike that it builds.
# --deploy: also what the tests of deploy/ and of the status page run: Prometheus, Chromium, docker-compose. Those that
#   cannot be installed are left to the tests, which say what they skip.
# --images: also what the test of the images runs: podman, buildah and what they need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

check_node() {
  command -v node >/dev/null || fail "Node.js is not installed; install Node 20.19 or newer (https://nodejs.org)"
  node -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1);
  ' || fail "Node $(node --version) is too old; install Node 20.19 or newer (https://nodejs.org)"
}

has_compiler() {
  local cc
  for cc in "${CC:-cc}" gcc clang; do
    # The headers come as a package of their own, so a compiler alone does not do.
    if command -v "$cc" >/dev/null && printf '#include <math.h>\nint main(void){return 0;}\n' | "$cc" -x c -fsyntax-only - 2>/dev/null; then
      return 0
    fi
  done
  return 1
}

has_cxx_compiler() {
  local cxx
  for cxx in "${CXX:-c++}" g++ clang++; do
    if command -v "$cxx" >/dev/null && printf '#include <string>\nint main(){return 0;}\n' | "$cxx" -x c++ -fsyntax-only - 2>/dev/null; then
      return 0
    fi
  done
  return 1
}

has_blas() {
  [ "$(uname)" = Darwin ] && return 0 # Accelerate
  local known file
  known=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null || true)
  [[ $known =~ lib(openblas|mkl_rt|blis)[^\ ]*\.so ]] && return 0
  for file in /usr/lib/libopenblas*.so* /usr/local/lib/libopenblas*.so* /opt/intel/oneapi/mkl/latest/lib/libmkl_rt.so*; do
    [ -e "$file" ] && return 0
  done
  return 1
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
  say "installing $* (apt-get)"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && return 0
  # The package lists of a fresh container are empty.
  apt-get update -qq >/dev/null 2>&1 </dev/null || say "apt-get update failed; is the network up?"
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null </dev/null
}

system_packages() {
  local missing=() hint=node_modules/.rankmesh-no-blas
  has_compiler || missing+=(gcc libc6-dev)
  if $FOR_TESTS && ! has_cxx_compiler; then missing+=(g++); fi
  if ! has_blas && ! [ -e "$hint" ]; then missing+=(libopenblas0-pthread); fi
  if [ ${#missing[@]} -gt 0 ] && can_apt; then
    apt_install "${missing[@]}" || say "apt-get could not install ${missing[*]}"
  fi
  has_compiler || fail "no C compiler with headers; install one and run this again:
  Debian, Ubuntu:  sudo apt-get install gcc libc6-dev libopenblas0-pthread
  Fedora:          sudo dnf install gcc glibc-devel openblas
  Alpine:          apk add gcc musl-dev openblas
  macOS:           xcode-select --install"
  if $FOR_TESTS && ! has_cxx_compiler; then
    fail "no C++ compiler with headers; the tests of the cuda backend need one. Install it and run this again:
  Debian, Ubuntu:  sudo apt-get install g++
  Fedora:          sudo dnf install gcc-c++
  Alpine:          apk add g++"
  fi
  if ! has_blas && ! [ -e "$hint" ]; then
    say "OpenBLAS is not installed; the cpu backend will use its own, slower matrix product. For full speed:
  Debian, Ubuntu:  sudo apt-get install libopenblas0-pthread
  Fedora:          sudo dnf install openblas"
    NO_BLAS_HINT=$hint
  fi
}

deploy_packages() {
  local missing=()
  command -v promtool >/dev/null && command -v prometheus >/dev/null || missing+=(prometheus)
  command -v chromium >/dev/null || missing+=(chromium)
  command -v docker-compose >/dev/null || missing+=(docker-compose)
  command -v ip >/dev/null || missing+=(iproute2)
  # Examples in Python of docs/api.md.
  command -v protoc >/dev/null || missing+=(protobuf-compiler)
  command -v grpc_python_plugin >/dev/null || missing+=(protobuf-compiler-grpc)
  /usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || missing+=(python3-grpcio python3-protobuf)
  [ ${#missing[@]} -gt 0 ] || return 0
  if can_apt; then
    apt_install "${missing[@]}" || say "apt-get could not install ${missing[*]}; tests that need them are skipped"
  else
    say "not installed: ${missing[*]}; tests that need them are skipped"
  fi
}

image_packages() {
  local missing=() program
  for program in podman buildah crun catatonit debootstrap; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  command -v ip >/dev/null || missing+=(iproute2)
  [ ${#missing[@]} -gt 0 ] || return 0
  # What is missing then, the test itself says.
  if can_apt; then apt_install "${missing[@]}" || say "apt-get could not install ${missing[*]}"; fi
}

node_packages() {
  if ! [ -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    say "installing npm packages (npm ci)"
    npm ci --no-audit --no-fund --loglevel=error </dev/null >&2
    touch node_modules/.package-lock.json
  fi
}

NO_BLAS_HINT=
FOR_TESTS=false
if [ "${1:-}" = --tests ]; then FOR_TESTS=true; fi
check_node
system_packages
if [ "${1:-}" = --deploy ]; then deploy_packages; fi
if [ "${1:-}" = --images ]; then image_packages; fi
node_packages
if [ -n "$NO_BLAS_HINT" ]; then touch "$NO_BLAS_HINT"; fi
[ -d dist/cli ] || say "building (npm run build)"
npm run --silent build </dev/null >&2
if $FOR_TESTS; then
  [ -e dist/test-native/librankmesh_lookalike.so ] || say "building the CUDA look-alike for tests (a minute)"
  node scripts/build-look-alike.mjs >/dev/null
fi
