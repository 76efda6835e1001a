// targets: 75 80 90a
/* Which target's code runs. */
#include "../../../worker/backend/cuda/native/common.cuh"

template <int ARCH>
static __device__ int arch() { return ARCH; }

RM_KERNEL probe_target(int *out) {
#if __CUDA_ARCH__ >= 800
  *out = arch<800>();
#else
  *out = arch<__CUDA_ARCH__>();
#endif
}
