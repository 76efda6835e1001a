/*
 * Memory bandwidth of this machine, for benchmarks: stream THREADS MEBIBYTES REPEATS
 * Three float arrays of MEBIBYTES each, cut over the threads; prints median seconds and bytes of each pattern as JSON.
 *   read    a is summed                                  1 read
 *   triad   a = b + s * c                                2 reads, 1 write (the line that a write fetches first not counted)
 *   update  a, b, c each replaced by a function of all   3 reads, 3 writes in place, as an optimizer with two moments
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum pattern { TOUCH, READ, TRIAD, UPDATE, PATTERNS };

static float *a, *b, *c;
static long threads, elements;
static int pattern;
static volatile float sink;
static pthread_barrier_t begin, end;

static void part(long first, long last) {
  float *restrict x = a + first, *restrict y = b + first, *restrict z = c + first;
  const long n = last - first;
  if (pattern == TOUCH) {
    for (long i = 0; i < n; i++) x[i] = 1.0f, y[i] = 2.0f, z[i] = 3.0f;
  } else if (pattern == READ) {
    float sums[64] = {0};
    for (long i = 0; i + 64 <= n; i += 64)
      for (long j = 0; j < 64; j++) sums[j] += x[i + j];
    for (long j = 0; j < 64; j++) sink += sums[j];
  } else if (pattern == TRIAD) {
    for (long i = 0; i < n; i++) x[i] = y[i] + 3.0f * z[i];
  } else {
    for (long i = 0; i < n; i++) {
      const float m = 0.9f * y[i] + 0.1f * x[i], v = 0.9f * z[i] + 0.1f;
      x[i] = 0.9f * x[i] + 0.1f * m * v;
      y[i] = m;
      z[i] = v;
    }
  }
}

static void *worker(void *which) {
  const long t = (long)which, share = elements / threads / 64 * 64;
  for (;;) {
    pthread_barrier_wait(&begin);
    if (pattern == PATTERNS) return NULL;
    part(t * share, t == threads - 1 ? elements : (t + 1) * share);
    pthread_barrier_wait(&end);
  }
}

static double run(int which) {
  struct timespec from, to;
  pattern = which;
  clock_gettime(CLOCK_MONOTONIC, &from);
  pthread_barrier_wait(&begin);
  pthread_barrier_wait(&end);
  clock_gettime(CLOCK_MONOTONIC, &to);
  return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}

/* Arrays that lie the same distance into a page hinder each other (2 to 4 times slower): each begins a bit later. */
static float *array(size_t bytes, size_t which) {
  const size_t late = which * 1088;
  float *p = mmap(NULL, bytes + late, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    fprintf(stderr, "stream: no %zu bytes\n", bytes);
    exit(1);
  }
#ifdef MADV_HUGEPAGE
  madvise(p, bytes + late, MADV_HUGEPAGE);
#endif
  return p + late / sizeof(float);
}

static int ascending(const void *x, const void *y) {
  const double p = *(const double *)x, q = *(const double *)y;
  return (p > q) - (p < q);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  threads = atol(argv[1]);
  const size_t bytes = (size_t)atol(argv[2]) << 20;
  const int repeats = atoi(argv[3]);
  if (threads < 1 || bytes == 0 || repeats < 1 || repeats > 1000) return 2;
  elements = (long)(bytes / sizeof(float));
  a = array(bytes, 0), b = array(bytes, 1), c = array(bytes, 2);
  pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
  pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
  for (long t = 0; t < threads; t++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker, (void *)t) != 0) return 1;
  }
  run(TOUCH);
  const char *names[PATTERNS] = {"", "read", "triad", "update"};
  const int arrays_moved[PATTERNS] = {0, 1, 3, 6};
  for (int p = READ; p < PATTERNS; p++) {
    double seconds[1000];
    run(p);
    for (int r = 0; r < repeats; r++) seconds[r] = run(p);
    qsort(seconds, (size_t)repeats, sizeof *seconds, ascending);
    printf("%s\"%s\":{\"bytes\":%zu,\"seconds\":%.9f}", p == READ ? "{" : ",", names[p], bytes * (size_t)arrays_moved[p], seconds[repeats / 2]);
  }
  printf("}\n");
  return 0;
}
