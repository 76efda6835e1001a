/* The life of what is behind handles. */
#pragma once
#include "state.h"

namespace look_alike {

/* A context's first retain and last release. The latter gives back everything in it, as the real one does, finished or not. */
void open_context(CUcontext context);
void close_context(CUcontext context);

/* New devices in the place of lost ones: nothing that was made on those is left. */
void replace_devices();

void destroy_stream(CUstream stream);
void destroy_event(CUevent event);
void destroy_module(CUmodule module);
void destroy_graph(CUgraph graph);
void destroy_exec(CUgraphExec exec);

/* One line for each thing that was created and not destroyed; how many. */
std::size_t list_leaks(std::string &text);

}  // namespace look_alike
