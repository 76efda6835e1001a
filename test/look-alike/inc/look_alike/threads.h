/*
 * Threads of a block as kernels see them. Each is a fiber (threads/fibers.cpp); all fibers of a block run on one OS thread, one
 * at a time, and change only where they wait for each other.
 */
#pragma once

namespace look_alike {

constexpr unsigned WARP = 32, ALL_LANES = 0xffffffffu;
/* Bytes that a lane can hand to its warp in one exchange. */
constexpr unsigned SLOT = 32;

/* What lanes of a warp tell each other. */
struct Mailbox {
  /*
   * Exchanges of a whole warp take turns in the first two: a lane that writes for the next exchange cannot hit one that still
   * reads of the last, and none can be two ahead. Exchanges of some lanes use the third.
   */
  alignas(16) unsigned char slots[3][WARP][SLOT];
  /* Whole-warp waits so far. */
  unsigned epoch;
};

class BlockRunner;

struct Block {
  dim3 block_idx, block_dim, grid_dim;
  float *dynamic_shared;
  BlockRunner *runner;
};

/* A thread of a kernel: what is its own. */
struct Thread {
  uint3 thread_idx;
  unsigned lane;
  const Block *block;
  Mailbox *mailbox;
};

/* Of the fiber that runs. `__thread` and not `thread_local`: no wrapper that asks whether it is initialised. */
extern __thread Thread *current;

/* Both return when all threads of the block, or all lanes of the mask, are there; exited ones count as there. */
void wait_for_block();
void wait_for_lanes(unsigned mask);

/* Ends the block, and the context with it, by a CUresult. `what` and `detail` are printed. Does not return. */
[[noreturn]] void fail_thread(int status, const char *what, const void *detail = nullptr);

/*
 * Copies that run beside a thread: nothing moves until the thread waits for it. `from` null writes zeros. `finish_copies` waits
 * until at most `younger` groups are left.
 */
void start_copy(void *to, const void *from, unsigned bytes);
void commit_copies();
void finish_copies(unsigned younger);

/* Publishes `mine` to the lanes of `mask`; `read(lane)` gives another's, until the next exchange. */
template <class T>
class Exchange {
 public:
  Exchange(unsigned mask, const T &mine) : mask_(mask) {
    static_assert(sizeof(T) <= SLOT, "a lane hands over at most 32 bytes");
    Mailbox &box = *current->mailbox;
    slots_ = mask == ALL_LANES ? box.slots[box.epoch & 1] : box.slots[2];
    __builtin_memcpy(slots_[current->lane], &mine, sizeof(T));
    wait_for_lanes(mask);
  }
  ~Exchange() {
    if (mask_ != ALL_LANES) wait_for_lanes(mask_);
  }
  T read(unsigned lane) const {
    T value;
    __builtin_memcpy(&value, slots_[lane], sizeof(T));
    return value;
  }

 private:
  unsigned mask_;
  unsigned char (*slots_)[SLOT];
};

inline bool names_itself(unsigned mask) { return mask >> current->lane & 1; }

template <class T>
inline T shuffle(unsigned mask, T value, unsigned source) {
  if (!names_itself(mask)) fail_thread(719, "a lane shuffles under a mask without it");
  const Exchange<T> all(mask, value);
  return all.read(source);
}

inline unsigned ballot(unsigned mask, bool vote) {
  const Exchange<unsigned> all(mask, vote);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < WARP; lane++)
    if (mask >> lane & 1) votes |= (all.read(lane) & 1) << lane;
  return votes;
}

/* A barrier that tells every thread how many voted. */
int count_in_block(bool vote);

/*
 * `extern __shared__ float dyn_smem[];` in a kernel becomes `float *const dyn_smem = look_alike::dynamic_shared();`: the build
 * rewrites it.
 */
inline float *dynamic_shared() { return current->block->dynamic_shared; }

}  // namespace look_alike

#define threadIdx (look_alike::current->thread_idx)
#define blockIdx (look_alike::current->block->block_idx)
#define blockDim (look_alike::current->block->block_dim)
#define gridDim (look_alike::current->block->grid_dim)
#define warpSize 32

inline void __syncthreads() { look_alike::wait_for_block(); }
inline int __syncthreads_count(int vote) { return look_alike::count_in_block(vote != 0); }
inline int __syncthreads_or(int vote) { return look_alike::count_in_block(vote != 0) > 0; }
inline int __syncthreads_and(int vote) { return look_alike::count_in_block(vote == 0) == 0; }
inline void __syncwarp(unsigned mask = look_alike::ALL_LANES) { look_alike::wait_for_lanes(mask); }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* A source outside the segment of `width` lanes is the lane itself, as in CUDA. */
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = (int)look_alike::current->lane;
  return look_alike::shuffle(mask, value, (unsigned)((lane & ~(width - 1)) + (source & (width - 1))));
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = (int)look_alike::current->lane;
  const bool inside = (lane & (width - 1)) + (int)delta < width;
  return look_alike::shuffle(mask, value, (unsigned)(inside ? lane + (int)delta : lane));
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = (int)look_alike::current->lane;
  const bool inside = (lane & (width - 1)) >= (int)delta;
  return look_alike::shuffle(mask, value, (unsigned)(inside ? lane - (int)delta : lane));
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = (int)look_alike::current->lane, other = lane ^ bits;
  /* A lower segment may be read, a higher one not. */
  const bool inside = (other & ~(width - 1)) <= (lane & ~(width - 1)) && other < 32;
  return look_alike::shuffle(mask, value, (unsigned)(inside ? other : lane));
}

inline unsigned __ballot_sync(unsigned mask, int vote) { return look_alike::ballot(mask, vote != 0); }
inline int __any_sync(unsigned mask, int vote) { return look_alike::ballot(mask, vote != 0) != 0; }
inline int __all_sync(unsigned mask, int vote) { return look_alike::ballot(mask, vote == 0) == 0; }

[[noreturn]] inline void __trap() { look_alike::fail_thread(717, "__trap()"); }
