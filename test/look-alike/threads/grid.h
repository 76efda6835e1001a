/* Runs all blocks of a launch, over the cores of the machine. */
#pragma once
#include "block_runner.h"

namespace look_alike {

/* The outcome of the first block that failed. One launch at a time. */
Outcome run_grid(const Launch &launch);

}  // namespace look_alike
