/*
 * Changing stacks. On x86-64 in 15 instructions; elsewhere by ucontext, which asks the kernel to save the signal mask each time
 * and is 15 times slower.
 */
#pragma once
#include <cstddef>

#if !defined(__x86_64__) || defined(LOOK_ALIKE_UCONTEXT)
#define LOOK_ALIKE_ASM 0
#include <ucontext.h>
#else
#define LOOK_ALIKE_ASM 1
#endif

namespace look_alike {

/* Where a stack stands while another runs. */
#if LOOK_ALIKE_ASM
struct Context {
  void *stack_pointer = nullptr;
};
#else
struct Context {
  ucontext_t registers;
};
#endif

/* Makes `context` start at `entry`, which must not return, on a stack that ends at `top`. */
void prepare_context(Context &context, char *bottom, std::size_t bytes, void (*entry)());

/* Saves the running stack in `from` and goes on where `to` was left. */
void switch_context(Context &from, Context &to);

}  // namespace look_alike
