/* The matrix product: OpenBLAS where there is one, else plain loops. */
#include <dlfcn.h>

#include <algorithm>
#include <cstring>

#include "blas.h"

namespace look_alike {

namespace {

using Sgemm = void (*)(int order, int transa, int transb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                       int ldb, float beta, float *c, int ldc);

constexpr int COLUMN_MAJOR = 102, NO_TRANSPOSE = 111, TRANSPOSE = 112;

void plain_sgemm(int, int transa, int transb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                 float beta, float *c, int ldc) {
  const auto at = [](const float *x, int ld, bool transposed, int row, int column) {
    return transposed ? x[static_cast<std::size_t>(row) * ld + column] : x[static_cast<std::size_t>(column) * ld + row];
  };
  for (int j = 0; j < n; j++) {
    for (int i = 0; i < m; i++) {
      float sum = 0;
      for (int t = 0; t < k; t++) sum += at(a, lda, transa == TRANSPOSE, i, t) * at(b, ldb, transb == TRANSPOSE, t, j);
      float &out = c[static_cast<std::size_t>(j) * ldc + i];
      out = beta == 0 ? alpha * sum : alpha * sum + beta * out;
    }
  }
}

Sgemm find_sgemm() {
  for (const char *name : {"libopenblas.so.0", "libopenblas.so"}) {
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    if (void *found = dlsym(library, "cblas_sgemm")) return reinterpret_cast<Sgemm>(found);
  }
  return plain_sgemm;
}

float widen(unsigned short half) {
  const unsigned bits = static_cast<unsigned>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

unsigned bits_of(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* To nearest even, `drop` bits off the mantissa. NaN stays one, infinities stay. */
unsigned round_off(float value, unsigned drop) {
  const unsigned bits = bits_of(value), kept = ~((1u << drop) - 1);
  if ((bits & 0x7f800000u) == 0x7f800000u) return (bits & kept) | ((bits & 0x007fffffu) != 0 ? 0x00400000u : 0u);
  return (bits + (1u << (drop - 1)) - 1 + (bits >> drop & 1)) & kept;
}

unsigned short narrow(float value) { return static_cast<unsigned short>(round_off(value, 16) >> 16); }

float to_tf32(float value) {
  const unsigned bits = round_off(value, 13);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/* A factor as floats, dense where it must be converted. */
class Factor {
 public:
  Factor(const Matrix &x, const void *data, bool tf32, int rows, int columns)
      : data_(static_cast<const float *>(data)), ld_(static_cast<int>(x.ld)) {
    if (x.type == R_32F && !tf32) return;
    copy_.resize(static_cast<std::size_t>(rows) * columns);
    for (int j = 0; j < columns; j++) {
      for (int i = 0; i < rows; i++) {
        const long long from = j * x.ld + i;
        copy_[static_cast<std::size_t>(j) * rows + i] = x.type == R_32F ? to_tf32(static_cast<const float *>(data)[from])
                                                                       : widen(static_cast<const unsigned short *>(data)[from]);
      }
    }
    data_ = copy_.data();
    ld_ = std::max(rows, 1);
  }
  const float *data() const { return data_; }
  int ld() const { return ld_; }

 private:
  std::vector<float> copy_;
  const float *data_;
  int ld_;
};

const void *nth(const Matrix &x, int i) {
  return static_cast<const char *>(x.data) + i * x.stride * (x.type == R_32F ? 4 : 2);
}

void run_one(const Gemm &g, int index) {
  static const Sgemm sgemm = find_sgemm();
  const Factor a(g.a, nth(g.a, index), g.tf32, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k);
  const Factor b(g.b, nth(g.b, index), g.tf32, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n);
  void *c = const_cast<void *>(nth(g.c, index));
  const auto multiply = [&](float beta, float *out, int ld) {
    sgemm(COLUMN_MAJOR, g.transpose_a ? TRANSPOSE : NO_TRANSPOSE, g.transpose_b ? TRANSPOSE : NO_TRANSPOSE, g.m, g.n, g.k, g.alpha,
          a.data(), a.ld(), b.data(), b.ld(), beta, out, ld);
  };
  if (g.c.type == R_32F) return multiply(g.beta, static_cast<float *>(c), static_cast<int>(g.c.ld));
  auto *half = static_cast<unsigned short *>(c);
  std::vector<float> sums(static_cast<std::size_t>(g.m) * g.n);
  const auto for_each = [&](auto f) {
    for (int j = 0; j < g.n; j++)
      for (int i = 0; i < g.m; i++) f(half[j * g.c.ld + i], sums[static_cast<std::size_t>(j) * g.m + i]);
  };
  if (g.beta != 0) for_each([](unsigned short from, float &sum) { sum = widen(from); });
  multiply(g.beta, sums.data(), g.m);
  for_each([](unsigned short &to, float sum) { to = narrow(sum); });
}

}  // namespace

void run_gemm(const Gemm &g) {
  for (int i = 0; i < g.batch; i++) run_one(g, i);
}

}  // namespace look_alike
