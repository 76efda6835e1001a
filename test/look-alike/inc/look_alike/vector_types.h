/* CUDA's small vectors, aligned as there: a float4 is one 16-byte access, and faults where it is not aligned. */
#pragma once

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define LOOK_ALIKE_VECTORS(name, element, align2, align4)                                    \
  struct __align__(align2) name##2 { element x, y; };                                        \
  struct __align__(align4) name##4 { element x, y, z, w; };                                  \
  inline name##2 make_##name##2(element x, element y) { return {x, y}; }                     \
  inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

LOOK_ALIKE_VECTORS(char, signed char, 2, 4)
LOOK_ALIKE_VECTORS(uchar, unsigned char, 2, 4)
LOOK_ALIKE_VECTORS(short, short, 4, 8)
LOOK_ALIKE_VECTORS(ushort, unsigned short, 4, 8)
LOOK_ALIKE_VECTORS(int, int, 8, 16)
LOOK_ALIKE_VECTORS(uint, unsigned, 8, 16)
LOOK_ALIKE_VECTORS(float, float, 8, 16)
LOOK_ALIKE_VECTORS(longlong, long long, 16, 16)
LOOK_ALIKE_VECTORS(ulonglong, unsigned long long, 16, 16)
LOOK_ALIKE_VECTORS(double, double, 16, 16)

#undef LOOK_ALIKE_VECTORS

struct float3 {
  float x, y, z;
};
struct int3 {
  int x, y, z;
};
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
