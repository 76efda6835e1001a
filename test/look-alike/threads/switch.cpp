#include "switch.h"

#include <cstdint>

namespace look_alike {

#if LOOK_ALIKE_ASM

// The registers that a callee saves in the System V ABI; the rest are dead across the call.
asm(R"(
.text
.globl look_alike_switch
.hidden look_alike_switch
.type look_alike_switch, @function
look_alike_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
.globl look_alike_resume
.hidden look_alike_resume
look_alike_resume:
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size look_alike_switch, . - look_alike_switch
)");
extern "C" void look_alike_switch(void **from, void *to);

void prepare_context(Context &context, char *bottom, std::size_t bytes, void (*entry)()) {
  // As if `entry` had been called: the stack is 8 off a multiple of 16 when its first instruction runs.
  auto top = (reinterpret_cast<std::uintptr_t>(bottom) + bytes) & ~std::uintptr_t{15};
  void **stack = reinterpret_cast<void **>(top);
  *--stack = nullptr;
  *--stack = reinterpret_cast<void *>(entry);
  for (int saved = 0; saved < 6; saved++) *--stack = nullptr;
  context.stack_pointer = stack;
}

void switch_context(Context &from, Context &to) { look_alike_switch(&from.stack_pointer, to.stack_pointer); }

#else

void prepare_context(Context &context, char *bottom, std::size_t bytes, void (*entry)()) {
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = bottom;
  context.registers.uc_stack.ss_size = bytes;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
}

void switch_context(Context &from, Context &to) { swapcontext(&from.registers, &to.registers); }

#endif

}  // namespace look_alike
