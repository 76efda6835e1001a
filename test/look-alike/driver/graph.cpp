/* Graphs: captured work that is launched again and again with the arguments it was recorded with. */
#include <algorithm>

#include "objects.h"
#include "stream.h"

using namespace look_alike;

namespace {

/*
 * The works of a graph in an order that respects its edges and is otherwise as odd as can be: of the nodes that are free to run,
 * the one that was recorded last. So an edge that is missing shows.
 */
std::vector<Work> in_odd_order(const CUgraph_st &graph) {
  const std::size_t count = graph.nodes.size();
  std::unordered_map<CUgraphNode, std::size_t> index;
  for (std::size_t i = 0; i < count; i++) index[graph.nodes[i].get()] = i;
  std::vector<std::size_t> unmet(count);
  std::vector<std::vector<std::size_t>> followers(count);
  std::vector<std::size_t> free;  // a heap, last recorded on top
  for (std::size_t i = 0; i < count; i++) {
    unmet[i] = graph.nodes[i]->after.size();
    for (CUgraphNode before : graph.nodes[i]->after) followers[index[before]].push_back(i);
    if (unmet[i] == 0) free.push_back(i);
  }
  std::make_heap(free.begin(), free.end());
  std::vector<Work> works;
  while (!free.empty()) {
    std::pop_heap(free.begin(), free.end());
    const std::size_t next = free.back();
    free.pop_back();
    works.push_back(graph.nodes[next]->work);
    for (const std::size_t follower : followers[next]) {
      if (--unmet[follower] != 0) continue;
      free.push_back(follower);
      std::push_heap(free.begin(), free.end());
    }
  }
  return works;
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().graphs.count(graph) == 0) return CUDA_ERROR_INVALID_HANDLE;
  // Free on launch, upload, device launch, node priority: of no consequence, but device launch is not here.
  if ((flags & ~11ull) != 0) return CUDA_ERROR_INVALID_VALUE;
  auto *made = new CUgraphExec_st{};
  made->context = call.context();
  made->works = std::make_shared<const std::vector<Work>>(in_odd_order(*graph));
  call.state().execs.insert(made);
  *exec = made;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().execs.count(exec) == 0) return CUDA_ERROR_INVALID_HANDLE;
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const auto works = exec->works;
  // One launch after the other runs, also in different streams: that the same graph never runs twice at once is thus given.
  return submit(call.context(), ref,
                {"cuGraphLaunch",
                 [works] {
                   for (const Work &work : *works)
                     if (Outcome outcome = work.run(); outcome.status != 0) return outcome;
                   return Outcome{};
                 },
                 {}});
}

LOOK_ALIKE_API CUresult CUDAAPI cuGraphDestroy(CUgraph graph) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().graphs.count(graph) == 0) return CUDA_ERROR_INVALID_HANDLE;
  destroy_graph(graph);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec exec) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().execs.count(exec) == 0) return CUDA_ERROR_INVALID_HANDLE;
  destroy_exec(exec);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().graphs.count(graph) == 0) return CUDA_ERROR_INVALID_HANDLE;
  const std::size_t all = graph->nodes.size();
  if (nodes == nullptr) {
    *count = all;
    return CUDA_SUCCESS;
  }
  for (std::size_t i = 0; i < *count; i++) nodes[i] = i < all ? graph->nodes[i].get() : nullptr;
  *count = std::min(*count, all);
  return CUDA_SUCCESS;
}
