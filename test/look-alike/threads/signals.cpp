#include "signals.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "block_runner.h"

#ifdef __linux__
#include <ucontext.h>

namespace look_alike {

#if LOOK_ALIKE_ASM
extern "C" void look_alike_resume();
#endif

namespace {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
constexpr std::size_t HANDLER_STACK = 64 << 10;

struct sigaction previous[NSIG];
thread_local void *handler_stack = nullptr;

/* In words, with the CUresult that a device gives for it. */
Outcome describe(int signal, const siginfo_t &info, const BlockRunner &runner) {
  char text[128];
  if (signal == SIGFPE) return {719, "divided an integer by zero (a device goes on with any value)"};
  if (runner.in_guard_page(info.si_addr)) return {719, "used more than 64 KiB of stack in one thread"};
  // x86-64 tells no address of an access that is not aligned, or that no process could ever have.
  if (info.si_code == SI_KERNEL) return {716, "made an access that is not aligned to its size, or to a wild address"};
  std::snprintf(text, sizeof text, "reached for address %p, which is no memory", info.si_addr);
  return {700, text};
}

void handle(int signal, siginfo_t *info, void *context) {
  if (current != nullptr && info->si_code > 0) {
    BlockRunner &runner = BlockRunner::mine();
    if (Context *caller = runner.caller_while_running()) {
      const Outcome outcome = describe(signal, *info, runner);
      runner.note_failure(outcome.status, outcome.message);
#if LOOK_ALIKE_ASM
      // Returning from the signal goes on in the caller of the block, as if the fiber had switched to it.
      auto &registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
      registers[REG_RSP] = reinterpret_cast<greg_t>(caller->stack_pointer);
      registers[REG_RIP] = reinterpret_cast<greg_t>(&look_alike_resume);
      return;
#else
      setcontext(&caller->registers);
#endif
    }
  }
  const struct sigaction &before = previous[signal];
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  } else {
    // Comes again at once, and then ends the process.
    std::signal(signal, SIG_DFL);
  }
}

void install() {
  for (const int signal : SIGNALS) {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    sigaction(signal, &action, &previous[signal]);
  }
}

}  // namespace

void catch_signals_of_this_thread() {
  static std::once_flag once;
  std::call_once(once, install);
  stack_t present;
  if (sigaltstack(nullptr, &present) != 0 || !(present.ss_flags & SS_DISABLE)) return;
  handler_stack = std::malloc(HANDLER_STACK);
  stack_t own{};
  own.ss_sp = handler_stack;
  own.ss_size = HANDLER_STACK;
  sigaltstack(&own, nullptr);
}

void release_signals_of_this_thread() {
  if (handler_stack == nullptr) return;
  stack_t none{};
  none.ss_flags = SS_DISABLE;
  sigaltstack(&none, nullptr);
  std::free(handler_stack);
  handler_stack = nullptr;
}

}  // namespace look_alike

#else

namespace look_alike {
void catch_signals_of_this_thread() {}
void release_signals_of_this_thread() {}
}  // namespace look_alike

#endif
