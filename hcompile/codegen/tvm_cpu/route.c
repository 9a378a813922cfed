/* Chooses the blocks of keys that routed heads read: what hcompile/routing.py defines, in float32.
 *
 * A task is one list, of two blocks of queries. A block's scores with the sampled keys stay in scratch, queries in vector
 * lanes, so that they are computed once: the peaks are known before the sums. The build defines HC_HEAD_DIM, HC_ELEMENT
 * (bytes of an element), HC_LIST_BLOCK (queries and keys of a block) and HC_EVERY_KEY.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "vectors.h"

#ifdef __AVX512F__
enum { VECTORS = 4 };
#else
enum { VECTORS = 2 };
#endif
/* KEYS rows of keys times VECTORS vectors of queries are what registers hold of the scores. */
enum { D = HC_HEAD_DIM, BLOCK = HC_LIST_BLOCK, SAMPLES = BLOCK / HC_EVERY_KEY, KEYS = 4, GROUP = LANES * VECTORS };
_Static_assert(SAMPLES % KEYS == 0 && BLOCK % GROUP == 0, "blocks are whole register tiles");

static const float HIDDEN = -1e30f, UNSEEN = -1e29f;

/* What Python fills in: one int64 or pointer a field, in this order. Strides are in elements, [B, H, S] each. */
typedef struct {
  int64_t q, k, key_mask, rules, block_count, block_index; /* rules: (head, thousandths of its attention) a list head */
  int64_t batch, q_heads, kv_heads, list_heads, q_len, kv_len, q_offset, causal, room, threads, parallel;
  int64_t q_strides[3], k_strides[3], mask_stride;
  double scale;
} Route;

typedef struct {
  const Route *call;
  int64_t lists; /* of a head of a batch row */
  atomic_llong next;
  atomic_int failed;
} Job;

typedef struct { float share; int32_t block; } Share;

typedef struct {
  Vec queries[D * BLOCK / LANES], peak[BLOCK / LANES], total[BLOCK / LANES];
  float keys[KEYS * D];
  Vec *scores; /* of each sampled key with each query, and then of each block of keys */
  Share *shares;
  uint8_t *halves; /* which halves of the list's queries see a block of keys */
} Scratch;

static float element(const char *at, int64_t index) {
#if HC_ELEMENT == 2
  uint32_t bits = (uint32_t)((const uint16_t *)at)[index] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
#else
  return ((const float *)at)[index];
#endif
}

static int by_share(const void *a, const void *b) {
  const Share *x = a, *y = b;
  return x->share != y->share ? (x->share < y->share) - (x->share > y->share) : x->block - y->block;
}

/* Scores of `count` sampled keys from `sample` on with all queries. */
static void score(Scratch *s, const char *k, int64_t step, int64_t sample, int64_t count) {
  for (int j = 0; j < KEYS; j++)
    for (int d = 0; d < D; d++)
      s->keys[j * D + d] = j < count ? element(k, ((sample + j) * HC_EVERY_KEY + HC_EVERY_KEY / 2) * step + d) : 0.0f;
  for (int group = 0; group < BLOCK / LANES; group += VECTORS) {
    Vec sum[KEYS][VECTORS] = {{{0}}};
    for (int d = 0; d < D; d++)
      for (int j = 0; j < KEYS; j++)
        for (int n = 0; n < VECTORS; n++) sum[j][n] += s->keys[j * D + d] * s->queries[d * (BLOCK / LANES) + group + n];
    for (int j = 0; j < KEYS; j++)
      for (int n = 0; n < VECTORS; n++) s->scores[(sample + j) * (BLOCK / LANES) + group + n] = sum[j][n];
  }
}

/* Fills `shares` with the share of each block of keys in the attention of `rows` queries from `row` on. */
static void estimate(Scratch *s, const Route *c, const char *q, const char *k, const uint8_t *mask, int64_t row,
                     int64_t rows, int64_t blocks) {
  int64_t p0 = c->q_offset + row, width = BLOCK / LANES;
  float *queries = (float *)s->queries;
  for (int64_t i = 0; i < BLOCK; i++)
    for (int64_t d = 0; d < D; d++)
      queries[d * BLOCK + i] =
          i < rows ? element(q, (row + i) * c->q_strides[2] + d) * (float)(c->scale * LOG2_E) : 0.0f;
  for (int64_t i = 0; i < width; i++) s->peak[i] = (Vec){0} + UNSEEN, s->total[i] = (Vec){0};
  for (int64_t at = 0; at < blocks * SAMPLES; at += KEYS) {
    int64_t left = (c->kv_len - HC_EVERY_KEY / 2 - 1) / HC_EVERY_KEY + 1 - at;
    if (c->kv_len <= HC_EVERY_KEY / 2) left = 0;
    score(s, k, c->k_strides[2], at, left);
    for (int64_t j = at; j < at + KEYS; j++) {
      int64_t key = j * HC_EVERY_KEY + HC_EVERY_KEY / 2;
      Vec *of = s->scores + j * width;
      if (j - at >= left || (mask && !mask[key])) {
        for (int64_t i = 0; i < width; i++) of[i] = (Vec){0} + HIDDEN;
      } else if (c->causal && key > p0) {
        for (int64_t i = 0; i < least(BLOCK, key - p0); i++) ((float *)of)[i] = HIDDEN;
      }
      for (int64_t i = 0; i < width; i++) s->peak[i] = larger(of[i], s->peak[i]);
    }
  }
  for (int64_t block = 0; block < blocks; block++)
    for (int64_t i = 0; i < width; i++) {
      Vec sum = {0};
      for (int64_t j = 0; j < SAMPLES; j++)
        sum += exp2_of(s->scores[(block * SAMPLES + j) * width + i] - s->peak[i]);
      s->total[i] += sum;
      s->scores[block * width + i] = sum;
    }
  for (int64_t i = 0; i < BLOCK; i++) {
    float *total = (float *)s->total + i;
    *total = i < rows && ((float *)s->peak)[i] > UNSEEN ? 1.0f / *total : 0.0f;
  }
  for (int64_t block = 0; block < blocks; block++) {
    Vec sum = {0};
    for (int64_t i = 0; i < width; i++) sum += s->scores[block * width + i] * s->total[i];
    float share = 0.0f;
    for (int i = 0; i < LANES; i++) share += sum[i];
    s->shares[block] = (Share){share, (int32_t)block};
  }
}

static void make_list(Job *job, int64_t task, Scratch *s) {
  const Route *c = job->call;
  int64_t list = task % job->lists, slot = task / job->lists % c->list_heads, b = task / job->lists / c->list_heads;
  const int32_t *rule = (const int32_t *)c->rules + 2 * slot;
  int64_t h = rule[0], kv = h / (c->q_heads / c->kv_heads), all = (c->kv_len + BLOCK - 1) / BLOCK;
  const char *q = (const char *)c->q + HC_ELEMENT * (b * c->q_strides[0] + h * c->q_strides[1]);
  const char *k = (const char *)c->k + HC_ELEMENT * (b * c->k_strides[0] + kv * c->k_strides[1]);
  const uint8_t *mask = c->key_mask ? (const uint8_t *)c->key_mask + b * c->mask_stride : 0;
  int64_t start = 0;
  while (mask && start < c->kv_len && !mask[start]) start++;
  if (start == c->kv_len) start = 0;
  memset(s->halves, 0, all);
  for (int half = 0; half < 2; half++) {
    int64_t row = (2 * list + half) * BLOCK, rows = least(BLOCK, c->q_len - row);
    if (rows <= 0) break;
    int64_t first = c->q_offset + row, last = first + rows - 1;
    int64_t blocks = c->causal ? least(all, last / BLOCK + 1) : all;
    estimate(s, c, q, k, mask, row, rows, blocks);
    double sum = 0, before = 0;
    for (int64_t i = 0; i < blocks; i++) sum += s->shares[i].share;
    qsort(s->shares, blocks, sizeof(Share), by_share);
    for (int64_t i = 0; i < blocks && before < rule[1] / 1000.0 * sum; i++) {
      s->halves[s->shares[i].block] |= 1 << half;
      before += s->shares[i].share;
    }
    for (int64_t i = first / BLOCK; i <= last / BLOCK && i < blocks; i++) s->halves[i] |= 1 << half;
    if (start / BLOCK < blocks) s->halves[start / BLOCK] |= 1 << half;
  }
  int64_t at = (b * c->list_heads + slot) * job->lists + list;
  int32_t *entry = (int32_t *)c->block_index + at * c->room, count = 0;
  for (int64_t i = 0; i < all; i++)
    if (s->halves[i]) entry[count++] = (int32_t)(4 * i + s->halves[i]);
  ((int32_t *)c->block_count)[at] = count;
}

static void work(void *data) {
  Job *job = data;
  int64_t blocks = (job->call->kv_len + BLOCK - 1) / BLOCK, tasks = job->call->batch * job->call->list_heads * job->lists;
  int64_t scores = blocks * SAMPLES * BLOCK * sizeof(float), fixed = (sizeof(Scratch) + 63) / 64 * 64;
  int64_t bytes = fixed + scores + blocks * (sizeof(Share) + 1);
  char *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) {
    atomic_store(&job->failed, 1);
    return;
  }
  Scratch *s = (Scratch *)memory;
  s->scores = (Vec *)(memory + fixed);
  s->shares = (Share *)(memory + fixed + scores);
  s->halves = (uint8_t *)(s->shares + blocks);
  /* The last lists, which see most in causal attention, come first. */
  for (int64_t task; (task = atomic_fetch_add(&job->next, 1)) < tasks;) make_list(job, tasks - 1 - task, s);
  free(memory);
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

/* Returns 0, or 1 when memory ran out. */
__attribute__((visibility("default"))) int hc_route(const Route *c) {
  Job job = {.call = c, .lists = (c->q_len + 2 * BLOCK - 1) / (2 * BLOCK)};
  if (c->threads > 1 && c->parallel)
    ((Parallel)c->parallel)(work, &job, (unsigned)c->threads, 0);
  else
    work(&job);
  return atomic_load(&job.failed);
}
