import koffi from "koffi";

/** BLAS and the kernels keep packed operands on the stack of the call; koffi's own default would overflow. */
const SYNC_STACK_BYTES = 8 << 20;
const ASYNC_STACK_BYTES = 4 << 20;

/** Enlarges koffi's stacks. Call it before the first load of a library in each thread; later calls do nothing. */
export function prepareKoffi(): void {
  if ((koffi.config().sync_stack_size ?? 0) >= SYNC_STACK_BYTES) return;
  koffi.config({ sync_stack_size: SYNC_STACK_BYTES, async_stack_size: ASYNC_STACK_BYTES });
}
