/*
 * Device and pinned memory. Every byte of an allocation is 0xff when it is given out and when it is taken back: a NaN in any
 * float format. So reading what nobody wrote, or what was freed, shows. Guards on both sides show writing past the ends.
 */
#pragma once
#include "state.h"

namespace look_alike {

/* Whether [address, address + bytes) lies in one allocation of device memory, or of pinned memory. */
bool in_device_memory(CUcontext context, CUdeviceptr address, std::size_t bytes);
bool in_pinned_memory(const void *address, std::size_t bytes);
/* Whether an address may be a kernel's argument: in an allocation of either kind, or at its end. */
bool known_to_device(CUcontext context, CUdeviceptr address);

/* Fails with ILLEGAL_ADDRESS, naming `what`, where a guard was overwritten. */
Outcome check_guards(CUcontext context, const std::string &what);

/* All memory that was allocated in a context, pinned memory, too. */
void free_memory_of(CUcontext context);

/* What a context takes for itself. */
constexpr std::size_t CONTEXT_BYTES = std::size_t{300} << 20;

}  // namespace look_alike
