/*
 * Stands in for NVIDIA's <cuda_runtime.h> where g++ compiles the project's kernels for the look-alike driver. Only what kernels
 * use is here: words of the language, vector types, threads of a block and their ways to talk, device functions.
 *
 * `__global__` stays in the preprocessed text: scripts/build-look-alike.mjs finds kernels by it, macros resolved, and registers
 * them.
 */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
#ifdef __CUDA_ARCH__
/* Not where the driver's own code includes this: the standard library uses the word for itself. */
#define __noinline__ __attribute__((noinline))
#endif
/* One copy for each OS thread, and an OS thread runs one block at a time. */
#define __shared__ thread_local

#include "look_alike/vector_types.h"

#include "look_alike/threads.h"

#include "look_alike/atomics.h"
#include "look_alike/device_functions.h"
#include "look_alike/kernel.h"
/* Here and not where tensor_core.cuh asks for it: that is inside a namespace of the kernels. */
#include "look_alike_tensor_core.h"
