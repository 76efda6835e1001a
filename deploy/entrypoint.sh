#!/bin/sh
# Compiles the kernels again when this machine is not the one that built the image, then becomes rankmesh.
set -eu
node /app/scripts/build-native.mjs
exec node /app/dist/cli/main.js "$@"
