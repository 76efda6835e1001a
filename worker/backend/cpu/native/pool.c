/*
 * The threads of rm_parallel. A region never waits for a thread that is asleep: threads join while
 * tasks are left, and the caller, out of tasks, closes the region and waits only for those inside.
 * Idle threads spin for some microseconds (the next kernel usually follows at once) and then sleep,
 * so an idle worker uses no CPU.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "rankmesh_cpu.h"

#define MAX_THREADS 256
#define STACK_BYTES (8u << 20)
#define SPIN_NANOSECONDS 30000

/* State word: bit 0 says that a region is open, bits 1..16 count threads inside, the rest counts
 * regions. */
#define OPEN 1ull
#define INSIDE 2ull
#define INSIDE_MASK 0x1fffeull
#define REGION (1ull << 17)

static pthread_mutex_t region_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;

static _Atomic uint64_t state;
static _Atomic long next_task;
static _Atomic int sleepers;
static _Atomic int caller_sleeps;
static _Atomic int threads = 1;
static int started; /* pool threads that exist; guarded by region_lock */

/* The open region; written before it opens. */
static long region_tasks;
static rm_task region_task;
static void *region_context;

static uint64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void pause_cpu(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("isb");
#endif
}

static void run_tasks(void) {
  for (;;) {
    long task = atomic_fetch_add_explicit(&next_task, 1, memory_order_relaxed);
    if (task >= region_tasks) return;
    region_task(region_context, task);
  }
}

/* Joins the open region if there is one; returns the state last seen. */
static uint64_t try_region(int index) {
  uint64_t seen = atomic_load(&state);
  while ((seen & OPEN) && index < atomic_load_explicit(&threads, memory_order_relaxed)) {
    if (!atomic_compare_exchange_weak(&state, &seen, seen + INSIDE)) continue;
    run_tasks();
    seen = atomic_fetch_sub(&state, INSIDE) - INSIDE;
    if ((seen & INSIDE_MASK) == 0 && atomic_load(&caller_sleeps)) {
      pthread_mutex_lock(&sleep_lock);
      pthread_cond_signal(&left);
      pthread_mutex_unlock(&sleep_lock);
    }
    return seen | OPEN;
  }
  return seen;
}

/* Whether something happened since `seen`: a region opened (a finished one stays "open" in `seen`).
 */
static int moved_on(uint64_t seen) {
  uint64_t now = atomic_load(&state);
  return (now & OPEN) && (now / REGION) != (seen / REGION);
}

static void *pool_thread(void *argument) {
  int index = (int)(intptr_t)argument;
  uint64_t seen = try_region(index);
  for (;;) {
    uint64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
    int moved = 0;
    while (!(moved = moved_on(seen)) && nanoseconds() < deadline)
      for (int i = 0; i < 16; i++) pause_cpu();
    if (!moved || index >= atomic_load_explicit(&threads, memory_order_relaxed)) {
      pthread_mutex_lock(&sleep_lock);
      atomic_fetch_add(&sleepers, 1);
      while (!moved_on(seen)) pthread_cond_wait(&wake, &sleep_lock);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&sleep_lock);
    }
    uint64_t before = atomic_load(&state);
    try_region(index);
    seen = before;
  }
  return NULL;
}

static void wait_until_left(void) {
  uint64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
  while (atomic_load(&state) & INSIDE_MASK) {
    if (nanoseconds() < deadline) {
      pause_cpu();
      continue;
    }
    pthread_mutex_lock(&sleep_lock);
    atomic_store(&caller_sleeps, 1);
    while (atomic_load(&state) & INSIDE_MASK) pthread_cond_wait(&left, &sleep_lock);
    atomic_store(&caller_sleeps, 0);
    pthread_mutex_unlock(&sleep_lock);
  }
}

void rm_parallel(long tasks, rm_task task, void *context) {
  if (tasks <= 0) return;
  /* A second caller (the collectives' thread, a test) does not queue behind the first: it works
   * alone. */
  if (tasks == 1 || rm_threads() == 1 || pthread_mutex_trylock(&region_lock) != 0) {
    for (long t = 0; t < tasks; t++) task(context, t);
    return;
  }
  region_tasks = tasks;
  region_task = task;
  region_context = context;
  atomic_store(&next_task, 0);
  atomic_fetch_add(&state, REGION | OPEN);
  if (atomic_load(&sleepers) > 0) {
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&sleep_lock);
  }
  run_tasks();
  atomic_fetch_and(&state, ~OPEN);
  wait_until_left();
  pthread_mutex_unlock(&region_lock);
}

int rm_threads(void) { return atomic_load_explicit(&threads, memory_order_relaxed); }

/* Sets the number of threads, the caller among them; starts those that are missing. Returns the
 * number in use. */
RM_API int rm_set_threads(int wanted) {
  if (wanted < 1) wanted = 1;
  if (wanted > MAX_THREADS) wanted = MAX_THREADS;
  pthread_mutex_lock(&region_lock);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  /* Signals belong to Node's threads. */
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  while (started + 1 < wanted) {
    pthread_t id;
    if (pthread_create(&id, &attributes, pool_thread, (void *)(intptr_t)(started + 1)) != 0) break;
    started++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attributes);
  if (wanted > started + 1) wanted = started + 1;
  atomic_store(&threads, wanted);
  pthread_mutex_unlock(&region_lock);
  return wanted;
}
