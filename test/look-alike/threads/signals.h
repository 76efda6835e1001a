/*
 * A kernel that reads a wild address ends the process on the CPU, where on a device it ends the context. So while a kernel runs,
 * the signals of such faults become an outcome of its launch. All others go to whoever had them before.
 */
#pragma once

namespace look_alike {

/* A stack for handlers, since a fault may be that a fiber has none left. */
void catch_signals_of_this_thread();
void release_signals_of_this_thread();

}  // namespace look_alike
