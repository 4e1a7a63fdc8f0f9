/* The CUDA kernels' index arithmetic (src/field/k_cuda.h) on the CPU: every thread of a block is a coroutine, and what
 * the lanes of a warp do together (matrix loads, tensor products, exchanges) is done here by the definitions of the PTX
 * manual. All lanes of a warp must come to the same such place. Background copies arrive either at once or as late as
 * they may: the pipeline of stages must be right with both. Nothing here says that the instructions work on a device.
 */
#include "base/hooks.h"
#include "field/fq.h"
#include "tensor/limb.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <cmocka.h>

#define KERNEL static void
#define DEVICE static inline
#define SHARED static _Alignas(128)
#define UNROLL

struct words4 {
    uint32_t x, y, z, w;
};

enum { THREADS = 256, STACK = 65536, MAX_COPY = 64 };
enum place { RUNNING, MATRIX, PRODUCT, EXCHANGE, BLOCK, ENDED };

struct copy {
    void *to;
    uint8_t bytes[16];
    int group;
};

/* What a lane brings to the others of its warp; two, so that a quick lane does not overwrite what a slow one reads. */
struct offer {
    const void *address;
    uint32_t a[4], b[2];
    uint64_t x;
};

struct lane {
    ucontext_t context;
    enum place at;
    struct offer offers[2];
    int turn;
    struct copy copies[MAX_COPY];
    int n_copy, group;
};

static struct lane *lanes;
static uint8_t *stacks;
static ucontext_t scheduler;
static uint32_t now, at_block_x, at_block_y;
static bool late; /* copies arrive when they are waited for */

static uint32_t thread(void)
{
    return now;
}

static uint32_t block_x(void)
{
    return at_block_x;
}

static uint32_t block_y(void)
{
    return at_block_y;
}

/* Until all lanes of the warp (or the block) are here. */
static void meet(enum place place)
{
    struct lane *l = &lanes[now];
    l->at = place;
    swapcontext(&l->context, &scheduler);
}

static struct offer *offer(void)
{
    struct lane *l = &lanes[now];
    l->turn ^= 1;
    return &l->offers[l->turn];
}

static const struct offer *offered(uint32_t lane)
{
    return &lanes[now / 32 * 32 + lane].offers[lanes[now].turn];
}

static void sync_block(void)
{
    meet(BLOCK);
}

static void copy16(void *to, const void *from, bool valid)
{
    struct lane *l = &lanes[now];
    struct copy c = {.to = to, .group = l->group};
    if (valid)
        memcpy(c.bytes, from, 16);
    assert_true(((uintptr_t)to | (uintptr_t)from) % 16 == 0);
    if (!late) {
        memcpy(to, c.bytes, 16);
        return;
    }
    assert_true(l->n_copy < MAX_COPY);
    l->copies[l->n_copy++] = c;
}

static void copy_commit(void)
{
    lanes[now].group++;
}

/* All groups but the last. */
static void copy_wait(void)
{
    struct lane *l = &lanes[now];
    int left = 0;
    for (int i = 0; i < l->n_copy; i++)
        if (l->copies[i].group < l->group - 1)
            memcpy(l->copies[i].to, l->copies[i].bytes, 16);
        else
            l->copies[left++] = l->copies[i];
    l->n_copy = left;
}

static struct words4 load16(const void *from)
{
    struct words4 w;
    assert_true((uintptr_t)from % 16 == 0);
    memcpy(&w, from, 16);
    return w;
}

/* Matrix m of 8 rows of 16 bytes: lane 8 m + r brings the address of row r; lane l gets word l % 4 of row l / 4. */
static void load_matrix4(uint32_t out[4], const void *from)
{
    uint32_t lane = now % 32;
    offer()->address = from;
    meet(MATRIX);
    for (uint32_t m = 0; m < 4; m++) {
        const uint8_t *row = offered(m * 8 + lane / 4)->address;
        assert_true((uintptr_t)row % 16 == 0);
        memcpy(&out[m], row + lane % 4 * 4, 4);
    }
}

/* A is 16 x 32: row r, column k in lane 4 (r % 8) + k % 16 / 4, word r / 8 + 2 (k / 16), byte k % 4. B is 32 x 8: row
 * k, column n in lane 4 n + k % 16 / 4, word k / 16. C: rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the one after.
 */
static void multiply(int sum[4], const uint32_t a[4], const uint32_t b[2])
{
    struct offer *o = offer();
    uint32_t lane = now % 32;
    memcpy(o->a, a, sizeof o->a);
    memcpy(o->b, b, sizeof o->b);
    meet(PRODUCT);
    for (uint32_t e = 0; e < 4; e++) {
        uint32_t r = lane / 4 + e / 2 * 8, n = lane % 4 * 2 + e % 2;
        int64_t total = sum[e];
        for (uint32_t k = 0; k < 32; k++) {
            uint32_t x = offered(r % 8 * 4 + k % 16 / 4)->a[r / 8 + k / 16 * 2] >> k % 4 * 8;
            uint32_t y = offered(n * 4 + k % 16 / 4)->b[k / 16] >> k % 4 * 8;
            total += (int8_t)(x & 255) * (int)(y & 255);
        }
        sum[e] = (int)total;
        assert_true(sum[e] == total); /* no 32-bit sum overflows */
    }
}

static int64_t exchange(int64_t x, int mask)
{
    offer()->x = (uint64_t)x;
    meet(EXCHANGE);
    return (int64_t)offered(now % 32 ^ (uint32_t)mask)->x;
}

static float exchange_f32(float x, int mask)
{
    float y;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (uint32_t)exchange(bits, mask);
    memcpy(&y, &bits, 4);
    return y;
}

#include "field/k_cuda.h"

_Static_assert(THREADS == CUDA_THREADS, "threads of a block");

/* A kernel with its arguments. */
static void (*kernel)(void);
static struct cuda_product product;
static struct cuda_f32 product_f32;
static const uint32_t *split_rows;
static uint8_t *split_limbs;
static uint32_t split_n_row, split_n_in;
static size_t split_pitch;

static void call_gemm_64(void)
{
    gemm_64(product);
}

static void call_gemm_128(void)
{
    gemm_128(product);
}

static void call_gemv(void)
{
    uint32_t n = product.n_row * 4;
    if (n <= 8)
        gemv_8(product);
    else if (n <= 16)
        gemv_16(product);
    else
        gemv_32(product);
}

static void call_f32(void)
{
    multiply_f32(product_f32);
}

static void call_split(void)
{
    split(split_rows, split_n_row, split_n_in, split_limbs, split_pitch);
}

static void start_lane(void)
{
    kernel();
    lanes[now].at = ENDED;
    swapcontext(&lanes[now].context, &scheduler);
}

/* One warp up to its next meeting; true when it is at a meeting of the block. */
static bool step_warp(uint32_t warp)
{
    for (uint32_t i = warp * 32; i < warp * 32 + 32; i++) {
        now = i;
        lanes[i].at = RUNNING;
        swapcontext(&scheduler, &lanes[i].context);
        assert_int_equal(lanes[i].at, lanes[warp * 32].at); /* the lanes do the same */
    }
    return lanes[warp * 32].at == BLOCK;
}

/* A function of its own: getcontext() returns twice as far as the compiler knows. */
static void __attribute__((noinline)) make_lane(size_t i)
{
    struct lane *l = &lanes[i];
    memset(l, 0, sizeof *l);
    getcontext(&l->context);
    l->context.uc_stack.ss_sp = stacks + i * STACK;
    l->context.uc_stack.ss_size = STACK;
    makecontext(&l->context, start_lane, 0);
}

static void run_block(uint32_t x, uint32_t y)
{
    at_block_x = x;
    at_block_y = y;
    for (size_t i = 0; i < THREADS; i++)
        make_lane(i);
    for (bool any = true; any;) {
        any = false;
        for (uint32_t w = 0; w < THREADS / 32; w++)
            while (lanes[w * 32].at != ENDED) {
                any = true;
                if (step_warp(w))
                    break;
            }
    }
}

static void launch(void (*k)(void), uint32_t n_x, uint32_t n_y)
{
    kernel = k;
    for (uint32_t y = 0; y < n_y; y++)
        for (uint32_t x = 0; x < n_x; x++)
            run_block(x, y);
}

static int make_lanes(void **state)
{
    (void)state;
    lanes = calloc(THREADS, sizeof *lanes);
    stacks = malloc((size_t)THREADS * STACK);
    return lanes && stacks ? 0 : 1;
}

static int free_lanes(void **state)
{
    (void)state;
    free(lanes);
    free(stacks);
    return 0;
}

struct shape {
    void (*kernel)(void);
    uint32_t per_block; /* outputs */
    uint32_t n_out, n_in, n_row;
    bool extreme; /* all at the bounds */
};

static const struct shape shapes[] = {
    {call_gemv, CUDA_GEMV_OUT, 1, 1, 1, false},     {call_gemv, CUDA_GEMV_OUT, 33, 700, 1, false},
    {call_gemv, CUDA_GEMV_OUT, 16, 2500, 2, false}, {call_gemv, CUDA_GEMV_OUT, 21, 513, 3, false},
    {call_gemv, CUDA_GEMV_OUT, 50, 100, 5, false},  {call_gemv, CUDA_GEMV_OUT, 17, 130, 8, false},
    {call_gemv, CUDA_GEMV_OUT, 1, 66000, 1, true},  {call_gemm_64, 64, 64, 64, 32, false},
    {call_gemm_64, 64, 70, 333, 9, false},          {call_gemm_64, 64, 5, 40, 37, false},
    {call_gemm_128, 128, 130, 200, 33, false},      {call_gemm_128, 128, 128, 448, 10, false},
    {call_gemm_128, 128, 3, 120, 12, true},
};

static uint8_t *aligned_buffer(size_t n)
{
    uint8_t *p = aligned_alloc(64, (n + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, (n + 63) / 64 * 64);
    return p;
}

/* As the host does: rows to limbs, then the columns in pieces. */
static void multiply_shape(const struct shape *s, const uint32_t *rows, const int8_t *w, size_t pitch, uint32_t *out)
{
    split_rows = rows;
    split_n_row = s->n_row;
    split_n_in = s->n_in;
    split_pitch = pitch;
    split_limbs = aligned_buffer((size_t)s->n_row * 4 * pitch);
    launch(call_split, (uint32_t)((s->n_row * (pitch / 4) + THREADS - 1) / THREADS), 1);
    for (size_t k = 0; k < pitch; k += ST_LIMB_MAX_K) {
        product = (struct cuda_product){.w = w + k,
                                        .limbs = split_limbs + k,
                                        .w_pitch = pitch,
                                        .limb_pitch = pitch,
                                        .n_out = s->n_out,
                                        .n_row = s->n_row,
                                        .n_k = (uint32_t)(pitch - k < ST_LIMB_MAX_K ? pitch - k : ST_LIMB_MAX_K),
                                        .out = out,
                                        .first = k == 0};
        bool few = s->kernel == call_gemv;
        launch(s->kernel, (s->n_out + s->per_block - 1) / s->per_block,
               few ? 1 : (s->n_row * 4 + CUDA_LANES - 1) / CUDA_LANES);
    }
    free(split_limbs);
}

static void check_shape(const struct shape *s, struct st_rng *rng)
{
    size_t pitch = (s->n_in + CUDA_STEP - 1) / CUDA_STEP * CUDA_STEP;
    uint32_t *rows = (uint32_t *)aligned_buffer((size_t)s->n_row * s->n_in * 4);
    uint32_t *out = (uint32_t *)aligned_buffer((size_t)s->n_row * s->n_out * 4);
    int8_t *w = (int8_t *)aligned_buffer(s->n_out * pitch);
    for (size_t i = 0; i < (size_t)s->n_row * s->n_in; i++)
        rows[i] = s->extreme ? ST_FQ - 1 : (uint32_t)(st_rng_next(rng) % ST_FQ);
    for (uint32_t o = 0; o < s->n_out; o++)
        for (uint32_t k = 0; k < s->n_in; k++)
            w[o * pitch + k] =
                s->extreme ? (int8_t)(o % 2 ? 127 : -127) : (int8_t)((int)(st_rng_next(rng) % 255) - 127);
    memset(out, 0xff, (size_t)s->n_row * s->n_out * 4);
    multiply_shape(s, rows, w, pitch, out);
    for (uint32_t r = 0; r < s->n_row; r++)
        for (uint32_t o = 0; o < s->n_out; o++) {
            uint32_t want = 0;
            for (uint32_t k = 0; k < s->n_in; k++)
                want = st_fq_add(want, st_fq_from((int64_t)w[o * pitch + k] * rows[(size_t)r * s->n_in + k]));
            if (out[(size_t)r * s->n_out + o] != want)
                fail_msg("[%u, %u] x %u rows: row %u output %u is %u, want %u", s->n_out, s->n_in, s->n_row, r, o,
                         out[(size_t)r * s->n_out + o], want);
        }
    free(rows);
    free(out);
    free(w);
}

static void products_are_exact_when_copies_arrive_at_once(void **state)
{
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 1);
    late = false;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shape(&shapes[i], &rng);
}

static void products_are_exact_when_copies_arrive_late(void **state)
{
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 2);
    late = true;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (shapes[i].kernel != call_gemv)
            check_shape(&shapes[i], &rng);
}

static void f32_products_use_every_value_once(void **state)
{
    enum { N_OUT = 19, N_IN = 301, N_ROW = 11, PITCH = 320 };
    static _Alignas(64) int8_t w[N_OUT][PITCH];
    static float rows[N_ROW][N_IN], scale[N_OUT], out[N_ROW][N_OUT];
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 3);
    for (int o = 0; o < N_OUT; o++) {
        scale[o] = (float)(1 + o);
        for (int k = 0; k < N_IN; k++)
            w[o][k] = (int8_t)((int)(st_rng_next(&rng) % 255) - 127);
    }
    for (int i = 0; i < N_ROW * N_IN; i++)
        rows[i / N_IN][i % N_IN] = (float)(st_rng_unit(&rng) - 0.5);
    product_f32 = (struct cuda_f32){w[0], PITCH, scale, rows[0], N_OUT, N_ROW, N_IN, out[0]};
    launch(call_f32, (N_OUT + 7) / 8, (N_ROW + CUDA_F32_ROWS - 1) / CUDA_F32_ROWS);
    for (int r = 0; r < N_ROW; r++)
        for (int o = 0; o < N_OUT; o++) {
            double want = 0;
            for (int k = 0; k < N_IN; k++)
                want += (double)w[o][k] * rows[r][k];
            assert_true(fabs(out[r][o] - want * scale[o]) < 1e-2 * scale[o]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_exact_when_copies_arrive_at_once),
        cmocka_unit_test(products_are_exact_when_copies_arrive_late),
        cmocka_unit_test(f32_products_use_every_value_once),
    };
    return cmocka_run_group_tests(tests, make_lanes, free_lanes);
}
