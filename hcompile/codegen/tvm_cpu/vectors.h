/* Vectors of floats for route.c and far_field.c, by GCC's vector extensions. The build defines HC_ELEMENT (bytes of an
 * element). */
#ifndef HC_VECTORS_H
#define HC_VECTORS_H

#include <stdint.h>
#include <string.h>

#ifndef __clang__
#pragma GCC optimize("fp-contract=fast") /* Else -std=c11 multiplies and adds apart. */
#endif

#ifdef __AVX512F__
enum { LANES = 16 };
#define SWAPS(n) n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n, 9 ^ n, 10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, \
    14 ^ n, 15 ^ n
#else
enum { LANES = 8 };
#define SWAPS(n) n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n
#endif
#ifdef __clang__
#define SWAPPED(x, n) __builtin_shufflevector(x, x, SWAPS(n))
#else
#define SWAPPED(x, n) __builtin_shuffle(x, (Ints){SWAPS(n)})
#endif
#define INLINED static inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

static const float LOG2_E = 1.4426950408889634f;

INLINED int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINED int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINED Vec chosen(Ints where, Vec a, Vec b) { return (Vec)(((Ints)a & where) | ((Ints)b & ~where)); }
INLINED Vec larger(Vec a, Vec b) { return chosen(a > b, a, b); }
INLINED Vec smaller(Vec a, Vec b) { return chosen(a < b, a, b); }

/* 2 ** x for x <= 0 within 2e-7, as the attention kernel has it (vector_ops.py); 0 where that is so small that products
 * with it get slow. */
INLINED Vec exp2_of(Vec x) {
  const Vec round = (Vec){0} + 0x1.8p23f, floor = (Vec){0} - 120.0f;
  Ints there = x > floor;
  x = larger(x, floor);
  Vec whole = x + round;
  Vec f = x - (whole - round), y = (Vec){0} + 0.0013264727139957249f;
  const float rest[] = {0.009671512639957249f, 0.05550733743470752f, 0.2402224208537672f, 0.6931469775989911f, 1.0f};
  for (int i = 0; i < 5; i++) y = y * f + rest[i];
  return (Vec)(((Ints)y + ((Ints)whole << 23)) & there);
}

/* The largest lane and the sum of lanes, in all lanes. */
INLINED Vec top_of(Vec x) {
#ifdef __AVX512F__
  x = larger(x, SWAPPED(x, 8));
#endif
  x = larger(x, SWAPPED(x, 4));
  x = larger(x, SWAPPED(x, 2));
  return larger(x, SWAPPED(x, 1));
}

INLINED Vec sum_of(Vec x) {
#ifdef __AVX512F__
  x += SWAPPED(x, 8);
#endif
  x += SWAPPED(x, 4);
  x += SWAPPED(x, 2);
  return x + SWAPPED(x, 1);
}

/* `width` elements, which is a constant where this is inlined, and zeros after them. */
INLINED Vec load(const char *at, int width) {
#if HC_ELEMENT == 2
  Halves halves = {0};
  memcpy(&halves, at, 2 * width);
  return (Vec)(__builtin_convertvector(halves, Ints) << 16);
#else
  Vec value = {0};
  memcpy(&value, at, 4 * width);
  return value;
#endif
}

INLINED void store(char *at, Vec value, int width) {
#if HC_ELEMENT == 2
  Ints bits = (Ints)value;
  bits += 0x7fff + (bits >> 16 & 1); /* To nearest, ties to even. */
  Halves halves = __builtin_convertvector(bits >> 16, Halves);
  memcpy(at, &halves, 2 * width);
#else
  memcpy(at, &value, 4 * width);
#endif
}

#endif
