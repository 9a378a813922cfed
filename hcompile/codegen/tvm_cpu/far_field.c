/* Adds the linear far field to heads whose near keys another kernel attended to: what hcompile/far_field.py defines.
 *
 * Query i of a head sees the far keys below first + i, and so one more than the query before it. Sums over chunks of
 * keys come first; then each chunk of queries goes through its rows with the sums of the features in registers. The
 * build defines HC_HEAD_DIM, HC_ELEMENT (bytes of an element) and HC_FEATURES.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "vectors.h"

/* HELD features of a vector of values are summed in registers, ROWS rows mapped at once. */
#ifdef __AVX512F__
enum { HELD = 16, ROWS = 8, AHEAD = 16 };
#else
enum { HELD = 8, ROWS = 4, AHEAD = 16 };
#endif
#define UNROLL _Pragma("GCC unroll 16")

/* Rows of sums are padded with zeros to whole vectors. */
enum { D = HC_HEAD_DIM, F = HC_FEATURES, PARTS = F / LANES, COLUMNS = (D + LANES - 1) / LANES, CHUNK = 128 };
/* Vectors of the sums of a chunk and of a map, bytes of scratch. */
enum { VECTORS = F * COLUMNS + PARTS, MAP = (D + 1) * PARTS, ROOM = 16 << 20 };
_Static_assert(F % LANES == 0 && F % HELD == 0, "HC_FEATURES is no multiple of the lanes of a vector");
_Static_assert(D % 8 == 0, "HC_HEAD_DIM is no multiple of 8");

/* What Python fills in: one int64 or pointer a field, in this order. Strides are in elements, [B, H, S] each. */
typedef struct {
  int64_t out, log_sums, q, k, v, key_mask, maps, rows; /* rows: (head, window, sinks) a listed head */
  int64_t batch, q_heads, kv_heads, listed, q_len, kv_len, q_offset, threads, parallel;
  int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3], mask_stride;
} FarCall;

typedef struct {
  Vec features[CHUNK * PARTS], far[CHUNK];
  float largest[CHUNK], weight[CHUNK], near_share[CHUNK], far_share[CHUNK];
  float rows[ROWS * D];
} Scratch;

typedef struct Job Job;
struct Job {
  const FarCall *call;
  const int64_t *starts; /* of the valid keys of each batch row */
  Scratch *scratch; /* one a thread */
  Vec *maps; /* of each listed head, of queries and of keys: features in lanes, the bias last */
  Vec *sums, *features; /* of a pair: VECTORS for each chunk of keys; of key first + i, by i */
  int64_t before, chunks; /* how many chunks of keys lie before `first`, and of queries */
  int64_t from, pairs, tasks; /* of the pairs, those that are computed now */
  void (*step)(const Job *, int64_t, Scratch *);
  atomic_llong next, thread;
};

/* A listed head of a batch row. */
typedef struct {
  const char *q, *k, *v;
  const uint8_t *mask;
  char *out;
  const float *log_sums;
  const Vec *maps;
  Vec *sums, *features;
  int64_t first, low; /* Far are keys from `low` on, and below first + i. */
} Pair;

/* What the maps make of ROWS rows, `step` elements apart; those from `count` on are read as the first. */
INLINED void map_rows(float *wide, const Vec *map, const char *at, int64_t step, int64_t count, Vec *result) {
  const float *row[ROWS];
  UNROLL for (int i = 0; i < ROWS; i++) {
    const char *from = at + (i < count ? i : 0) * step * HC_ELEMENT;
    row[i] = HC_ELEMENT == 4 ? (const float *)from : wide + i * D;
    for (int d = 0; HC_ELEMENT != 4 && d < D; d += LANES) {
      Vec value = d + LANES <= D ? load(from + HC_ELEMENT * d, LANES) : load(from + HC_ELEMENT * d, D % LANES);
      memcpy(wide + i * D + d, &value, 4 * (d + LANES <= D ? LANES : D % LANES));
    }
  }
  Vec sum[ROWS * PARTS];
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int n = 0; n < PARTS; n++) sum[i * PARTS + n] = map[D * PARTS + n];
  for (int d = 0; d < D; d++)
    UNROLL for (int i = 0; i < ROWS; i++)
      UNROLL for (int n = 0; n < PARTS; n++) sum[i * PARTS + n] += map[d * PARTS + n] * row[i][d];
  UNROLL for (int i = 0; i < ROWS * PARTS; i++) result[i] = sum[i];
}

/* Memory is slower than this arithmetic, and rows of other heads lie between those of one. */
INLINED void fetch(const char *row) {
  for (int byte = 0; byte < D * HC_ELEMENT; byte += 64) __builtin_prefetch(row + byte);
}

/* Exponentials of the mapped rows, divided by that of the largest, which is kept in `largest` where that is given;
 * otherwise they are made to add up to 1. Fetches what comes after: rows ahead, and those of `next` and `then`. */
INLINED void exponentials(Scratch *s, const Vec *map, const char *at, int64_t step, int64_t rows, Vec *result,
                          float *largest, const char *next, int64_t next_step, const char *then, int64_t then_step) {
  for (int64_t r = 0; r < rows; r += ROWS) {
    for (int64_t i = r; i < r + ROWS; i++) {
      fetch(at + (i + AHEAD) * step * HC_ELEMENT);
      fetch(next + i * next_step * HC_ELEMENT);
      if (then) fetch(then + i * then_step * HC_ELEMENT);
    }
    Vec x[ROWS * PARTS];
    map_rows(s->rows, map, at + r * step * HC_ELEMENT, step, rows - r, x);
    UNROLL for (int i = 0; i < ROWS; i++) {
      if (r + i >= rows) break; /* What follows may be another task's. */
      Vec top = x[i * PARTS], total = {0};
      UNROLL for (int n = 1; n < PARTS; n++) top = larger(top, x[i * PARTS + n]);
      top = top_of(top);
      UNROLL for (int n = 0; n < PARTS; n++) {
        x[i * PARTS + n] = exp2_of((x[i * PARTS + n] - top) * LOG2_E);
        total += x[i * PARTS + n];
      }
      float factor = 1.0f;
      if (largest)
        largest[r + i] = top[0];
      else
        factor = 1.0f / sum_of(total)[0];
      UNROLL for (int n = 0; n < PARTS; n++) result[(r + i) * PARTS + n] = x[i * PARTS + n] * factor;
    }
  }
}

static Pair pair_at(const Job *job, int64_t index) {
  const FarCall *c = job->call;
  int64_t b = (job->from + index) / c->listed, slot = (job->from + index) % c->listed;
  const int32_t *rule = (const int32_t *)c->rows + 3 * slot;
  int64_t h = rule[0], kv = h / (c->q_heads / c->kv_heads);
  return (Pair){
      .q = (const char *)c->q + HC_ELEMENT * (b * c->q_strides[0] + h * c->q_strides[1]),
      .k = (const char *)c->k + HC_ELEMENT * (b * c->k_strides[0] + kv * c->k_strides[1]),
      .v = (const char *)c->v + HC_ELEMENT * (b * c->v_strides[0] + kv * c->v_strides[1]),
      .out = (char *)c->out + HC_ELEMENT * (b * c->out_strides[0] + h * c->out_strides[1]),
      .maps = job->maps + 2 * slot * MAP,
      .mask = c->key_mask ? (const uint8_t *)c->key_mask + b * c->mask_stride : 0,
      .log_sums = (const float *)c->log_sums + (b * c->q_heads + h) * c->q_len,
      .sums = job->sums + index * (job->before + job->chunks) * VECTORS,
      .features = job->features + index * job->chunks * CHUNK * PARTS,
      .first = c->q_offset - rule[1] + 1,
      .low = job->starts[b] + rule[2],
  };
}

/* Turns a map around, features in lanes. */
static void turn(const Job *job, int64_t task, Scratch *s) {
  (void)s;
  const float *map = (const float *)job->call->maps;
  map += (2 * ((const int32_t *)job->call->rows)[task / 2 * 3] + task % 2) * F * (D + 1);
  float *turned = (float *)(job->maps + task * MAP);
  for (int d = 0; d <= D; d++)
    for (int f = 0; f < F; f++) turned[d * F + f] = map[f * (D + 1) + d];
}

INLINED void sum_column(const Vec *features, const char *v, int64_t step, int64_t rows, Vec *sums, int width) {
  UNROLL for (int held = 0; held < F; held += HELD) {
    Vec sum[HELD] = {{0}};
    for (int64_t r = 0; r < rows; r++) {
      Vec value = load(v + r * step * HC_ELEMENT, width);
      const float *phi = (const float *)(features + r * PARTS) + held;
      UNROLL for (int f = 0; f < HELD; f++) sum[f] += phi[f] * value;
    }
    UNROLL for (int f = 0; f < HELD; f++) sums[held + f] = sum[f];
  }
}

/* Makes the features and sums of a chunk of keys. */
static void sum_chunk(const Job *job, int64_t task, Scratch *s) {
  const FarCall *c = job->call;
  int64_t index = task / job->pairs, chunk = index - job->before;
  Pair pair = pair_at(job, task % job->pairs);
  int64_t start = pair.first + chunk * CHUNK, low = most(pair.low, start);
  int64_t high = least(least(c->kv_len, pair.first + c->q_len - 1), start + CHUNK), rows = high - low;
  Vec *sums = pair.sums + index * VECTORS;
  if (rows <= 0) {
    memset(sums, 0, VECTORS * sizeof(Vec));
    return;
  }
  /* Those before all queries are not read again. */
  Vec *features = chunk < 0 ? s->features : pair.features + (low - pair.first) * PARTS;
  const int64_t *k = c->k_strides, *v = c->v_strides;
  const char *values = pair.v + low * v[2] * HC_ELEMENT;
  exponentials(s, pair.maps + MAP, pair.k + low * k[2] * HC_ELEMENT, k[2], rows, features, 0, values, v[2], 0, 0);
  Vec weight[PARTS] = {{0}};
  for (int64_t r = 0; r < rows; r++)
    for (int n = 0; n < PARTS; n++) {
      if (pair.mask && !pair.mask[low + r]) features[r * PARTS + n] = (Vec){0};
      weight[n] += features[r * PARTS + n];
    }
  memcpy(sums + F * COLUMNS, weight, sizeof weight);
  if (chunk == job->chunks - 1) return; /* No query sees it whole. */
  for (int column = 0; column < D / LANES; column++)
    sum_column(features, values + column * LANES * HC_ELEMENT, v[2], rows, sums + column * F, LANES);
  if (D % LANES)
    sum_column(features, values + D / LANES * LANES * HC_ELEMENT, v[2], rows, sums + D / LANES * F, D % LANES);
}

/* Turns the sums of chunks into those of all chunks before each, for a part of their vectors. */
static void add_up(const Job *job, int64_t task, Scratch *s) {
  (void)s;
  int64_t count = job->before + job->chunks;
  Vec *sums = job->sums + task / (COLUMNS + 1) * count * VECTORS + task % (COLUMNS + 1) * F;
  int vectors = task % (COLUMNS + 1) < COLUMNS ? F : PARTS;
  Vec before[F] = {{0}};
  for (int64_t chunk = 0; chunk < count; chunk++)
    for (int n = 0; n < vectors; n++) {
      Vec own = sums[chunk * VECTORS + n];
      sums[chunk * VECTORS + n] = before[n];
      before[n] += own;
    }
}

/* Fills `weight` with the weight of the far field of each row, divided by the exponential of `largest`. */
static void weigh(Scratch *s, const Vec *phi, const Vec *sums, int64_t from, int64_t rows, int64_t last) {
  Vec sum[PARTS];
  memcpy(sum, sums, sizeof sum);
  for (int64_t r = from; r < rows; r++) {
    Vec product = {0};
    for (int n = 0; n < PARTS; n++) product += s->features[r * PARTS + n] * sum[n];
    s->weight[r] = sum_of(product)[0];
    if (r < last)
      for (int n = 0; n < PARTS; n++) sum[n] += phi[r * PARTS + n];
  }
}

/* Fills both shares with what a row's near and far values count. A weight is m 2 ** e, so that this takes no logarithm
 * and nothing overflows. */
static void share(Scratch *s, const float *log_sums, int64_t rows) {
  float near_log[CHUNK] = {0};
  memcpy(near_log, log_sums, rows * sizeof(float));
  for (int64_t r = 0; r < rows; r += LANES) {
    Vec log, largest, weight, zero = {0}, infinite = (Vec){0} + (float)__builtin_inf();
    memcpy(&log, near_log + r, sizeof log);
    memcpy(&largest, s->largest + r, sizeof largest);
    memcpy(&weight, s->weight + r, sizeof weight);
    Ints there = weight >= 0x1p-126f;
    Ints exponent = ((Ints)weight >> 23) - 127;
    Vec m = (Vec)(((Ints)weight & 0x7fffff) | 0x3f800000);
    Vec over = (largest - log) * LOG2_E + __builtin_convertvector(exponent, Vec);
    over = chosen(there, over, -infinite);
    Vec near = (Vec)((Ints)exp2_of(smaller(-over, zero)) & (log > -infinite));
    Vec far = (Vec)((Ints)(m * exp2_of(smaller(over, zero))) & there);
    Vec total = larger(near + far, (Vec){0} + 0x1p-126f);
    near = near / total;
    far = (Vec)((Ints)(far / total / weight) & there);
    memcpy(s->near_share + r, &near, sizeof near);
    memcpy(s->far_share + r, &far, sizeof far);
  }
}

INLINED void merge_column(Scratch *s, const Vec *features, const Vec *sums, const char *v, int64_t v_step, char *out,
                          int64_t out_step, int64_t from, int64_t rows, int64_t last, int width) {
  UNROLL for (int held = 0; held < F; held += HELD) {
    Vec sum[HELD];
    UNROLL for (int f = 0; f < HELD; f++) sum[f] = sums[held + f];
    for (int64_t r = from; r < rows; r++) {
      const float *psi = (const float *)(s->features + r * PARTS) + held;
      const float *phi = (const float *)(features + r * PARTS) + held;
      Vec far[4];
      UNROLL for (int n = 0; n < 4; n++) far[n] = psi[n] * sum[n];
      UNROLL for (int f = 4; f < HELD; f++) far[f % 4] += psi[f] * sum[f];
      far[0] = (far[0] + far[1]) + (far[2] + far[3]);
      if (held) far[0] += s->far[r];
      if (held + HELD < F) {
        s->far[r] = far[0];
      } else {
        char *at = out + r * out_step * HC_ELEMENT;
        store(at, s->near_share[r] * load(at, width) + s->far_share[r] * far[0], width);
      }
      if (r < last) {
        Vec value = load(v + r * v_step * HC_ELEMENT, width);
        UNROLL for (int f = 0; f < HELD; f++) sum[f] += phi[f] * value;
      }
    }
  }
}

/* Adds to a chunk of queries what is far from them. */
static void merge_chunk(const Job *job, int64_t task, Scratch *s) {
  const FarCall *c = job->call;
  int64_t chunk = task / job->pairs, row = chunk * CHUNK, rows = least(CHUNK, c->q_len - row);
  Pair pair = pair_at(job, task % job->pairs);
  /* Row r sees the keys below start + r, and those of rows from `from` to `last` come one after another. */
  int64_t start = pair.first + row, from = most(0, pair.low - start), last = least(rows - 1, c->kv_len - start);
  if (pair.low >= least(c->kv_len, start + rows - 1)) return;
  const Vec *sums = pair.sums + (job->before + chunk) * VECTORS, *features = pair.features + row * PARTS;
  const int64_t *q = c->q_strides, *v = c->v_strides, *o = c->out_strides;
  const char *values = pair.v + start * v[2] * HC_ELEMENT;
  char *out = pair.out + row * o[2] * HC_ELEMENT;
  exponentials(s, pair.maps, pair.q + row * q[2] * HC_ELEMENT, q[2], rows, s->features, s->largest, values, v[2], out,
               o[2]);
  memset(s->weight, 0, from * sizeof(float));
  weigh(s, features, sums + F * COLUMNS, from, rows, last);
  share(s, pair.log_sums + row, rows);
  for (int column = 0; column < D / LANES; column++) {
    int64_t at = column * LANES * HC_ELEMENT;
    merge_column(s, features, sums + column * F, values + at, v[2], out + at, o[2], from, rows, last, LANES);
  }
  if (D % LANES) {
    int64_t at = D / LANES * LANES * HC_ELEMENT;
    merge_column(s, features, sums + D / LANES * F, values + at, v[2], out + at, o[2], from, rows, last, D % LANES);
  }
}

static void work(void *data) {
  Job *job = data;
  Scratch *s = job->scratch + atomic_fetch_add(&job->thread, 1);
  for (int64_t task; (task = atomic_fetch_add(&job->next, 1)) < job->tasks;) job->step(job, task, s);
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static void run(Job *job, void (*step)(const Job *, int64_t, Scratch *), int64_t tasks) {
  const FarCall *c = job->call;
  job->step = step;
  job->tasks = tasks;
  atomic_store(&job->next, 0);
  atomic_store(&job->thread, 0);
  if (c->threads > 1 && c->parallel)
    ((Parallel)c->parallel)(work, job, (unsigned)c->threads, 0);
  else
    work(job);
}

/* Returns 0, or 1 when memory ran out. */
__attribute__((visibility("default"))) int hc_far_field(const FarCall *c) {
  const int32_t *rules = (const int32_t *)c->rows;
  int64_t pairs = c->batch * c->listed, before = 0;
  for (int64_t slot = 0; slot < c->listed; slot++) before = most(before, c->q_offset - rules[3 * slot + 1] + 1);
  Job job = {.call = c, .before = (before + CHUNK - 1) / CHUNK, .chunks = (c->q_len + CHUNK - 1) / CHUNK};
  int64_t sums = (job.before + job.chunks) * VECTORS * sizeof(Vec);
  int64_t features = job.chunks * CHUNK * PARTS * sizeof(Vec);
  int64_t maps = 2 * c->listed * MAP * sizeof(Vec), scratch = most(1, c->threads) * sizeof(Scratch);
  /* As many pairs at once as stay in a cache. */
  int64_t group = most(1, least(pairs, ROOM / (sums + features + 1)));
  int64_t bytes = scratch + maps + group * (sums + features) + c->batch * sizeof(int64_t);
  char *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) return 1;
  job.scratch = (Scratch *)memory;
  job.maps = (Vec *)(memory + scratch);
  job.sums = (Vec *)(memory + scratch + maps);
  job.features = (Vec *)(memory + scratch + maps + group * sums);
  int64_t *starts = (int64_t *)(memory + bytes - c->batch * sizeof(int64_t));
  for (int64_t b = 0; b < c->batch; b++) {
    const uint8_t *mask = c->key_mask ? (const uint8_t *)c->key_mask + b * c->mask_stride : 0;
    starts[b] = 0;
    while (mask && starts[b] < c->kv_len && !mask[starts[b]]) starts[b]++;
  }
  job.starts = starts;
  run(&job, turn, 2 * c->listed);
  /* Heads of the same rows follow each other: their rows share pages, and keys if they are of one group. */
  for (; job.from < pairs; job.from += group) {
    job.pairs = least(group, pairs - job.from);
    run(&job, sum_chunk, job.pairs * (job.before + job.chunks));
    run(&job, add_up, job.pairs * (COLUMNS + 1));
    run(&job, merge_chunk, job.pairs * job.chunks);
  }
  free(memory);
  return 0;
}
