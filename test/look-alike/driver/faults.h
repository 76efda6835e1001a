/*
 * Faults on demand: the n-th call of a function answers a status. From RANKMESH_LOOKALIKE_FAULTS="cuMemAlloc_v2:2=2,
 * cuLaunchKernel:10=719" or from rm_lookalike_fault. `*` counts the calls of all functions together. The status `lost` (999) is
 * answered by that call and all later ones, whatever their context.
 */
#pragma once
#include "state.h"

namespace look_alike {

/* Statuses after which a context answers nothing else. */
bool is_sticky(int status);

class Faults {
 public:
  static Faults &get();

  /* Counts a call; the status to answer, or 0. */
  int next(const char *name);
  /* `nth` counts from now, 1 is the next call. */
  void add(const std::string &name, std::uint64_t nth, int status);
  void clear();
  std::uint64_t calls(const std::string &name) const;

  static constexpr int LOST = 999;

 private:
  Faults();
  void parse(const std::string &text);

  struct Fault {
    std::string name;
    std::uint64_t at;
    int status;
  };
  std::vector<Fault> faults_;
  std::unordered_map<std::string, std::uint64_t> calls_;
  bool lost_ = false;
};

}  // namespace look_alike
