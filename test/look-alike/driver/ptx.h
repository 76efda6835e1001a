/* Reads of PTX text what a driver would know of its kernels after compiling it. */
#pragma once
#include <memory>
#include <string>
#include <vector>

namespace look_alike {

struct PtxEntry {
  std::string name;
  std::vector<unsigned> parameter_bytes;
  /* From __launch_bounds__; 1024 where it says nothing. */
  unsigned max_threads = 1024;
  /* Static shared memory. */
  std::size_t shared_bytes = 0;
};

struct Ptx {
  /* 75 of `.target sm_75`; 0 where there is none. */
  int target = 0;
  /* Code for that chip alone: sm_90a. */
  bool this_chip_only = false;
  /* 90 of `.version 9.0`. */
  int version = 0;
  std::vector<PtxEntry> entries;
};

/* Parsed once for each content. */
std::shared_ptr<const Ptx> parse_ptx(const char *text);

}  // namespace look_alike
