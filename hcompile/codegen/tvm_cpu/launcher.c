/* Runs the generated tile function over every query tile of one attention call, on the caller's OpenMP pool.
 *
 * Compiled together with the tile object into one library, so that a kernel needs neither TVM nor its FFI at run time.
 * The build defines HC_BLOCK_Q (queries of a tile), HC_BLOCK_K (most keys of a block), HC_SCRATCH (floats of scratch),
 * HC_BOUNDS (int32s of scratch after them), HC_PEAK and HC_SUM (where in scratch a tile leaves the peaks of its queries
 * and the sums below them), HC_LIST_BLOCK (queries and keys of a block of a list), HC_ELEMENT (bytes of an element),
 * HC_PAIR (elements of a word in rows of Q and K) and HC_HEAD_DIM.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* The two structs of TVM's stable C ABI that the tile function reads (tvm/ffi/c_api.h, dlpack.h). */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t i;
    double f;
    void *p;
  } value;
} Any;

typedef struct {
  void *data;
  struct { int32_t type, id; } device;
  int32_t ndim;
  struct { uint8_t code, bits; uint16_t lanes; } dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;

enum { ANY_INT = 1, ANY_FLOAT = 3, ANY_POINTER = 4, ANY_TENSOR = 7 };

int __tvm_ffi_tile(void *self, const Any *args, int32_t count, Any *result);

#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))

/* Called by the tile function when an argument has the wrong type, which the fixed list below never has. */
HIDDEN void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  (void)kind, (void)parts, (void)count;
}

/* What Python fills in: one int64 or pointer a field, in this order. Strides are in elements. */
typedef struct {
  int64_t q, k, v, out, key_mask, head_params, block_count, block_index, log_sums; /* 0: sums are not asked for */
  int64_t batch, q_heads, kv_heads, q_len, kv_len, q_offset, causal, threads, parallel;
  int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3], mask_stride; /* [B, H, S] each */
  int64_t list_heads, list_room;
  double scale;
} Call;

typedef struct { int32_t first, end, holes; } Valid;

typedef struct {
  const Call *call;
  const Valid *valid; /* one a batch row */
  const int32_t *order; /* heads, longest first */
  const int32_t *slot; /* which list a head reads */
  int64_t tiles, tasks;
  atomic_llong next;
  atomic_int failed;
} Job;

enum { UNBOUNDED = 1 << 30 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* What a row of the mask leaves: the keys from the first to the last valid one, and whether some between are not. */
static Valid scan(const uint8_t *row, int64_t length) {
  int64_t first = 0, end = length, count = 0;
  while (first < length && !row[first]) first++;
  while (end > first && !row[end - 1]) end--;
  for (int64_t j = first; j < end; j++) count += row[j];
  return (Valid){(int32_t)first, (int32_t)end, count != end - first};
}

/* Cuts the keys from `low` to `high` into blocks: (first key, keys) each. Returns the end of the pairs. */
static int32_t *cut(int32_t *pair, int64_t low, int64_t high) {
  for (; low < high; low += HC_BLOCK_K) {
    *pair++ = (int32_t)low;
    *pair++ = (int32_t)least(HC_BLOCK_K, high - low);
  }
  return pair;
}

/* How many blocks the keys of a call are cut into at most: one is as long as one of a list, but for ends of ranges. */
static int64_t most_blocks(const Call *c) { return c->kv_len / HC_LIST_BLOCK + 3; }

/* Cuts what a list names for the queries from `row` on, which is at most each block once; neighbours are one range. */
static int32_t *cut_listed(int32_t *pair, const Job *job, int64_t b, int64_t h, int64_t row, int64_t first, int64_t end) {
  const Call *c = job->call;
  int64_t lists = (c->q_len + 2 * HC_LIST_BLOCK - 1) / (2 * HC_LIST_BLOCK);
  int64_t list = (b * c->list_heads + job->slot[h]) * lists + row / (2 * HC_LIST_BLOCK);
  int64_t count = least(((const int32_t *)c->block_count)[list], least(c->list_room, most_blocks(c) - 2));
  int32_t half = row / HC_LIST_BLOCK % 2;
  const int32_t *entry = (const int32_t *)c->block_index + list * c->list_room;
  int64_t low = 0, high = 0;
  for (int64_t i = 0; i < count; i++) {
    if (!(entry[i] >> half & 1)) continue;
    int64_t key = (int64_t)(entry[i] >> 2) * HC_LIST_BLOCK;
    if (key != high) pair = cut(pair, most(low, first), least(high, end)), low = key;
    high = key + HC_LIST_BLOCK;
  }
  return cut(pair, most(low, first), least(high, end));
}

static void run_tile(Job *job, int64_t task, Any *a, int32_t *todo) {
  const Call *c = job->call;
  int64_t tile = job->tiles - 1 - task % job->tiles;
  int64_t b = task / job->tiles % c->batch, h = job->order[task / job->tiles / c->batch];
  int64_t kv = h / (c->q_heads / c->kv_heads);
  const int32_t *params = (const int32_t *)c->head_params + 2 * h;
  Valid valid = job->valid[b];
  int64_t row0 = tile * HC_BLOCK_Q, rows = least(HC_BLOCK_Q, c->q_len - row0);
  int64_t p0 = c->q_offset + row0, p1 = p0 + rows - 1, window = params[0];
  int64_t key_end = c->causal ? least(valid.end, p1 + 1) : valid.end;
  int64_t sink_end = valid.first + (int64_t)params[1], scattered = 1;
  int32_t *end = todo;
  if (window == 0 && c->list_heads) {
    window = UNBOUNDED, sink_end = 0;
    end = cut_listed(todo, job, b, h, row0, valid.first, key_end);
  } else {
    /* The visible keys lie in [lo_a, hi_a) and [lo_b, hi_b), which start at any key: the sinks and the window. */
    int64_t lo_a = valid.first, hi_a = most(lo_a, least(sink_end, key_end));
    int64_t lo_b = most(lo_a, p0 - window + 1), hi_b = most(lo_b, least(key_end, p1 + window));
    if (lo_b <= hi_a) hi_a = most(hi_a, hi_b), lo_b = hi_b;
    scattered = lo_b < hi_b;
    end = cut(cut(todo, lo_a, hi_a), lo_b, hi_b);
  }
  int64_t blocks = (end - todo) / 2;
  if (blocks) end[0] = end[-2]; /* What is fetched ahead of the last block. */
  const int64_t *q = c->q_strides, *k = c->k_strides, *v = c->v_strides, *out = c->out_strides;
  /* The arguments in the order of `tile` in prim_func.py. */
  a[1].value.p = (char *)c->q + HC_ELEMENT * (b * q[0] + h * q[1] + row0 * q[2]);
  a[2].value.p = (char *)c->k + HC_ELEMENT * (b * k[0] + kv * k[1]);
  a[3].value.p = (char *)c->v + HC_ELEMENT * (b * v[0] + kv * v[1]);
  a[4].value.p = (char *)c->out + HC_ELEMENT * (b * out[0] + h * out[1] + row0 * out[2]);
  a[6].value.p = valid.holes ? (char *)c->key_mask + b * c->mask_stride : 0;
  int64_t numbers[] = {q[2] / HC_PAIR, k[2] / HC_PAIR, v[2], out[2], rows, p0, blocks, scattered, window,
                       least(sink_end, INT32_MAX), c->causal, valid.holes};
  for (int i = 0; i < 12; i++) a[8 + i].value.i = numbers[i];
  Any result = {0};
  if (__tvm_ffi_tile(0, a, 21, &result)) atomic_store(&job->failed, 1);
  if (!c->log_sums) return;
  /* Logarithms of the sums of exp(scale * score), [B, H, S]; a tile's are powers of 2. */
  const float *scratch = ((Tensor *)a[0].value.p)->data, *peak = scratch + HC_PEAK, *sum = scratch + HC_SUM;
  float *log_sums = (float *)c->log_sums + (b * c->q_heads + h) * c->q_len + row0;
  for (int64_t i = 0; i < rows; i++)
    log_sums[i] = sum[i] > 0 ? (peak[i] + log2f(sum[i])) * 0.69314718f : -INFINITY;
}

/* Takes tasks from the first, returned, to `end`: neighbours, which share keys in a cache, and fewer towards the end. */
static int64_t take(Job *job, int64_t *end) {
  long long first = atomic_load(&job->next);
  do {
    int64_t fair = (job->tasks - first) / (4 * most(1, job->call->threads));
    *end = least(job->tasks, first + most(1, least(16, fair)));
  } while (!atomic_compare_exchange_weak(&job->next, &first, *end));
  return first;
}

static void work(void *data) {
  Job *job = data;
  int64_t end, task = take(job, &end);
  if (task >= job->tasks) return;
  int64_t bytes = HC_SCRATCH * sizeof(float) + HC_BOUNDS * sizeof(int32_t);
  bytes += sizeof(int32_t) * (2 * most_blocks(job->call) + 1);
  float *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!scratch) {
    atomic_store(&job->failed, 1);
    return;
  }
  int64_t shape = HC_SCRATCH, stride = 1;
  Tensor tensor = {scratch, {1, 0}, 1, {2, 32, 1}, &shape, &stride, 0};
  Any args[21] = {{ANY_TENSOR, 0, {.p = &tensor}}};
  int32_t *bounds = (int32_t *)(scratch + HC_SCRATCH), *todo = bounds + HC_BOUNDS;
  args[5].value.p = bounds;
  args[7].value.p = todo;
  for (int i = 1; i < 8; i++) args[i].type_index = ANY_POINTER;
  for (int i = 8; i < 20; i++) args[i].type_index = ANY_INT;
  args[20] = (Any){ANY_FLOAT, 0, {.f = job->call->scale * 1.4426950408889634}};
  for (; task < job->tasks; task = take(job, &end))
    for (; task < end; task++) run_tile(job, task, args, todo);
  free(scratch);
}

/* In which order heads are taken: the more it may read, the sooner. What a list names is not looked at. */
static int64_t reach(const int32_t *params) { return params[0] ? params[0] : UNBOUNDED - 1; }

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

EXPORT const int hc_head_dim = HC_HEAD_DIM, hc_element = HC_ELEMENT, hc_pair = HC_PAIR;

/* Returns 0, or 1 when memory ran out. */
EXPORT int hc_attention(const Call *c) {
  Job job = {.call = c, .tiles = (c->q_len + HC_BLOCK_Q - 1) / HC_BLOCK_Q};
  job.tasks = c->batch * c->q_heads * job.tiles;
  if (!job.tasks) return 0;
  Valid *valid = malloc(c->batch * sizeof(Valid) + 2 * c->q_heads * sizeof(int32_t));
  if (!valid) return 1;
  int32_t *order = (int32_t *)(valid + c->batch), *slot = order + c->q_heads, lists = 0;
  const int32_t *params = (const int32_t *)c->head_params;
  const uint8_t *mask = (const uint8_t *)c->key_mask;
  for (int64_t b = 0; b < c->batch; b++)
    valid[b] = mask ? scan(mask + b * c->mask_stride, c->kv_len) : (Valid){0, (int32_t)c->kv_len, 0};
  for (int64_t h = 0; h < c->q_heads; h++) {
    int64_t at = h;
    slot[h] = params[2 * h] ? 0 : lists++;
    for (; at > 0 && reach(params + 2 * order[at - 1]) < reach(params + 2 * h); at--) order[at] = order[at - 1];
    order[at] = (int32_t)h;
  }
  job.valid = valid;
  job.order = order;
  job.slot = slot;
  /* Always all threads: GNU's runtime ends and starts some when their number changes between regions. */
  if (c->threads > 1 && job.tasks > 1 && c->parallel)
    ((Parallel)c->parallel)(work, &job, (unsigned)c->threads, 0);
  else
    work(&job);
  free(valid);
  return atomic_load(&job.failed);
}
