/* The kernels of backend_cuda.cu, for compute capability 8.0 and later: products of int8 weights and the byte planes
 * (limbs) of masked rows by tensor cores with 32-bit sums, put together modulo q before they are written.
 *
 * Written in the subset that C and CUDA share: the including file defines the primitives below, so that a test runs the
 * same index arithmetic on the CPU (tests/test_cuda_emulation.c). That test says nothing about speed, races or the
 * instructions themselves.
 *
 *     KERNEL DEVICE SHARED            qualifiers of a kernel, of a function, of memory of a block
 *     UNROLL                          before loops that are unrolled wholly
 *     thread() block_x() block_y()    indices; blocks have CUDA_THREADS threads
 *     sync_block()                    all threads of the block
 *     copy16(to, from, valid)         16 bytes to memory of the block in the background, zeros unless valid
 *     copy_commit() copy_wait()       closes a group of copies; waits for all groups but the last
 *     load16(from), struct words4     16 bytes of memory
 *     load_matrix4(out, from)         ldmatrix.x4.b16: lane l gives the address of row l % 8 of matrix l / 8
 *     multiply(sum, a, b)             mma.m16n8k32 s8 x u8 + s32
 *     exchange(x, mask)               x of lane ^ mask, 64 bits; exchange_f32 the same for floats
 *
 * Memory: weights [n_out] rows and limbs [n_lane] rows of n_k bytes, n_k a multiple of 64, zeros behind the real end.
 * Lane n_limb * row + limb: a row's four limbs are neighbours. */
#ifndef ST_FIELD_K_CUDA_H
#define ST_FIELD_K_CUDA_H

#define CUDA_THREADS 256
#define CUDA_STEP 64 /* bytes of k in one step */
#define CUDA_LANES 128
#define CUDA_STAGES 3
#define CUDA_GEMV_ROWS 8 /* rows of u32 in one call of gemv */
#define CUDA_GEMV_OUT 16 /* outputs of one block of gemv */
#define CUDA_F32_ROWS 8

struct cuda_product {
    const int8_t *w; /* first of the columns of this call; rows w_pitch bytes apart, a multiple of 16 */
    const uint8_t *limbs;
    size_t w_pitch, limb_pitch;
    uint32_t n_out, n_row, n_k; /* n_k <= ST_LIMB_MAX_K: 255 * 128 * 65536 < 2^31 */
    uint32_t *out;              /* [n_row][n_out] */
    bool first;                 /* out = product, else out += product mod q */
};

/* x in (-2^56, 2^56) to its residue: as st_fq_from(). */
DEVICE uint32_t residue(int64_t x)
{
    uint64_t y = (uint64_t)(x + ((int64_t)ST_FQ << 24));
    UNROLL
    for (int fold = 0; fold < 3; fold++)
        y = (y & 0xffffffff) + (y >> 32) * ((1u << 20) - 1);
    return (uint32_t)(y >= ST_FQ ? y - ST_FQ : y);
}

/* The sums of one 16 x 8 tile: a group of four lanes holds row g = lane / 4 and row g + 8 of the outputs for two rows
 * of u32, two limbs in each thread. Even threads finish output g, odd ones g + 8. */
DEVICE void finish(const struct cuda_product *p, const int sum[4], uint32_t out0, uint32_t lane0)
{
    uint32_t lane = thread() % 32, odd = lane & 1;
    int64_t a = sum[0] + (int64_t)sum[1] * 256, b = sum[2] + (int64_t)sum[3] * 256;
    int64_t other = exchange(odd ? a : b, 1);
    int64_t x = odd ? other + b * 65536 : a + other * 65536;
    uint32_t o = out0 + lane / 4 + 8 * odd, row = (lane0 + lane % 4 * 2) / 4;
    if (o < p->n_out && row < p->n_row) {
        uint32_t *to = p->out + (size_t)row * p->n_out + o, value = residue(x);
        if (!p->first) {
            uint64_t both = (uint64_t)*to + value;
            value = (uint32_t)(both >= ST_FQ ? both - ST_FQ : both);
        }
        *to = value;
    }
}

/* Where 16-byte piece c of row r stands in a tile of 64-byte rows: eight rows of one piece fall into all banks. */
DEVICE uint32_t tile_at(uint32_t r, uint32_t c)
{
    return r * CUDA_STEP + ((c ^ (r / 2 & 3)) * 16);
}

/* n_tile rows from `row` on of a matrix with n_all rows. */
DEVICE void fetch_tile(uint8_t *tile, const uint8_t *from, size_t pitch, uint32_t row, uint32_t n_all, uint32_t k,
                       const int n_tile)
{
    UNROLL
    for (int i = 0; i < n_tile * 4 / CUDA_THREADS; i++) {
        uint32_t piece = thread() + (uint32_t)i * CUDA_THREADS, r = piece / 4, c = piece % 4;
        bool valid = row + r < n_all;
        copy16(tile + tile_at(r, c), from + (valid ? row + r : 0) * pitch + k + c * 16, valid);
    }
}

/* A block makes n_m (64 or 128) outputs for 32 rows; its 8 warps 2 x 4, each n_m / 2 outputs times 32 lanes. */
DEVICE void gemm(const struct cuda_product *p, uint8_t *memory, const int n_m)
{
    const int n_i = n_m / 32;
    uint32_t warp = thread() / 32, lane = thread() % 32;
    uint32_t out0 = block_x() * (uint32_t)n_m, lane0 = block_y() * CUDA_LANES, n_step = p->n_k / CUDA_STEP;
    uint32_t m = warp / 4 * (uint32_t)(n_m / 2), n = warp % 4 * 32; /* this warp's part of the tile */
    const uint32_t stage = (uint32_t)(n_m + CUDA_LANES) * CUDA_STEP;
    int sum[4][4][4];
    UNROLL
    for (int i = 0; i < 4; i++)
        UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
    for (int e = 0; e < 4; e++)
        sum[i][j][e] = 0;
    for (uint32_t s = 0; s < CUDA_STAGES - 1 + n_step; s++) {
        /* Step s is fetched while step s - 2 is computed; the barrier frees the stage that step s - 3 used. */
        uint32_t done = s - (CUDA_STAGES - 1);
        if (s >= CUDA_STAGES - 1) {
            copy_wait();
            sync_block();
        }
        if (s < n_step) {
            uint8_t *at = memory + s % CUDA_STAGES * stage;
            fetch_tile(at, (const uint8_t *)p->w, p->w_pitch, out0, p->n_out, s * CUDA_STEP, n_m);
            fetch_tile(at + n_m * CUDA_STEP, p->limbs, p->limb_pitch, lane0, p->n_row * 4, s * CUDA_STEP, CUDA_LANES);
        }
        copy_commit();
        if (s < CUDA_STAGES - 1)
            continue;
        const uint8_t *a = memory + done % CUDA_STAGES * stage, *b = a + n_m * CUDA_STEP;
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t av[4][4], bv[2][4];
            UNROLL
            for (int i = 0; i < n_i; i++)
                load_matrix4(av[i], a + tile_at(m + (uint32_t)i * 16 + lane % 16, half * 2 + lane / 16));
            UNROLL
            for (int j = 0; j < 2; j++)
                load_matrix4(bv[j],
                             b + tile_at(n + (uint32_t)j * 16 + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
            UNROLL
            for (int i = 0; i < n_i; i++)
                UNROLL
            for (int j = 0; j < 4; j++)
                multiply(sum[i][j], av[i], bv[j / 2] + j % 2 * 2);
        }
    }
    UNROLL
    for (int i = 0; i < n_i; i++)
        UNROLL
    for (int j = 0; j < 4; j++)
        finish(p, sum[i][j], out0 + m + (uint32_t)i * 16, lane0 + n + (uint32_t)j * 8);
}

KERNEL gemm_64(const struct cuda_product p)
{
    SHARED uint8_t memory[CUDA_STAGES * (64 + CUDA_LANES) * CUDA_STEP];
    gemm(&p, memory, 64);
}

KERNEL gemm_128(const struct cuda_product p)
{
    SHARED uint8_t memory[CUDA_STAGES * (128 + CUDA_LANES) * CUDA_STEP];
    gemm(&p, memory, 128);
}

#define AHEAD 4 /* steps of a warp whose weights are on their way at once */

/* A few rows, n_tile = their lanes / 8 rounded up: bound by reading the weights, once, straight into registers. A block
 * makes 16 outputs; its 8 warps take steps of k in turns, and their sums are added. The order of k inside a step is
 * free as long as both sides agree: a thread loads 16 bytes in a row and uses them as four words of the two products.
 */
DEVICE void gemv(const struct cuda_product *p, int *memory, const int n_tile)
{
    uint32_t warp = thread() / 32, lane = thread() % 32, g = lane / 4, at = lane % 4 * 16;
    uint32_t out0 = block_x() * CUDA_GEMV_OUT, n_lane = p->n_row * 4, last = p->n_out - 1;
    const int8_t *low = p->w + (out0 + g < last ? out0 + g : last) * p->w_pitch + at;
    const int8_t *high = p->w + (out0 + g + 8 < last ? out0 + g + 8 : last) * p->w_pitch + at;
    int sum[4][4];
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
    for (int e = 0; e < 4; e++)
        sum[j][e] = 0;
    const uint32_t stride = CUDA_STEP * (CUDA_THREADS / 32);
    for (uint32_t k0 = warp * CUDA_STEP; k0 < p->n_k; k0 += AHEAD * stride) {
        /* All loads of weights first: as many bytes on their way as the latency of memory asks for. */
        struct words4 a[AHEAD], b[AHEAD];
        UNROLL
        for (uint32_t s = 0; s < AHEAD; s++) {
            uint32_t k = k0 + s * stride < p->n_k ? k0 + s * stride : k0;
            a[s] = load16(low + k);
            b[s] = load16(high + k);
        }
        UNROLL
        for (uint32_t s = 0; s < AHEAD; s++) {
            uint32_t k = k0 + s * stride;
            if (k >= p->n_k)
                break;
            const uint32_t first[4] = {a[s].x, b[s].x, a[s].y, b[s].y}, second[4] = {a[s].z, b[s].z, a[s].w, b[s].w};
            UNROLL
            for (int j = 0; j < n_tile; j++) {
                uint32_t n = (uint32_t)j * 8 + g;
                struct words4 u = load16(p->limbs + (n < n_lane ? n : n_lane - 1) * p->limb_pitch + at + k);
                const uint32_t v[2] = {u.x, u.y}, w[2] = {u.z, u.w};
                multiply(sum[j], first, v);
                multiply(sum[j], second, w);
            }
        }
    }
    UNROLL
    for (int j = 0; j < n_tile; j++)
        UNROLL
    for (int e = 0; e < 4; e++)
        memory[((uint32_t)(j * 4 + e) * (CUDA_THREADS / 32) + warp) * 32 + lane] = sum[j][e];
    sync_block();
    if (warp >= (uint32_t)n_tile)
        return;
    /* All columns together are at most ST_LIMB_MAX_K: these sums do not overflow either. */
    int total[4] = {0, 0, 0, 0};
    UNROLL
    for (uint32_t e = 0; e < 4; e++)
        for (uint32_t other = 0; other < CUDA_THREADS / 32; other++)
            total[e] += memory[((warp * 4 + e) * (CUDA_THREADS / 32) + other) * 32 + lane];
    finish(p, total, out0, warp * 8);
}

KERNEL gemv_8(const struct cuda_product p)
{
    SHARED int memory[1 * 4 * CUDA_THREADS];
    gemv(&p, memory, 1);
}

KERNEL gemv_16(const struct cuda_product p)
{
    SHARED int memory[2 * 4 * CUDA_THREADS];
    gemv(&p, memory, 2);
}

KERNEL gemv_32(const struct cuda_product p)
{
    SHARED int memory[4 * 4 * CUDA_THREADS];
    gemv(&p, memory, 4);
}

/* rows [n_row][n_in] to limbs [4 n_row][pitch], zeros behind n_in; a thread per four values. */
KERNEL split(const uint32_t *rows, uint32_t n_row, uint32_t n_in, uint8_t *limbs, size_t pitch)
{
    size_t i = (size_t)block_x() * CUDA_THREADS + thread(), words = pitch / 4;
    if (i >= n_row * words)
        return;
    size_t row = i / words, word = i % words;
    uint32_t x[4];
    UNROLL
    for (uint32_t j = 0; j < 4; j++)
        x[j] = word * 4 + j < n_in ? rows[row * n_in + word * 4 + j] : 0;
    UNROLL
    for (uint32_t l = 0; l < 4; l++) {
        uint32_t out = 0;
        UNROLL
        for (uint32_t j = 0; j < 4; j++)
            out |= (x[j] >> 8 * l & 255) << 8 * j;
        ((uint32_t *)(limbs + (row * 4 + l) * pitch))[word] = out;
    }
}

struct cuda_f32 {
    const int8_t *w;
    size_t w_pitch;
    const float *scale, *rows; /* [n_out], [n_row][n_in] */
    uint32_t n_out, n_row, n_in;
    float *out;
};

/* A warp makes one output for CUDA_F32_ROWS rows. */
KERNEL multiply_f32(const struct cuda_f32 p)
{
    uint32_t lane = thread() % 32, o = block_x() * (CUDA_THREADS / 32) + thread() / 32;
    uint32_t row0 = block_y() * CUDA_F32_ROWS;
    float sum[CUDA_F32_ROWS];
    UNROLL
    for (uint32_t r = 0; r < CUDA_F32_ROWS; r++)
        sum[r] = 0;
    if (o >= p.n_out)
        return; /* the whole warp */
    for (uint32_t k = lane * 4; k < p.n_in; k += 32 * 4) {
        uint32_t word = *(const uint32_t *)(p.w + o * p.w_pitch + k);
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            float w = (float)(int8_t)(word >> 8 * j & 255);
            UNROLL
            for (uint32_t r = 0; r < CUDA_F32_ROWS; r++)
                if (row0 + r < p.n_row && k + j < p.n_in)
                    sum[r] += w * p.rows[(size_t)(row0 + r) * p.n_in + k + j];
        }
    }
    UNROLL
    for (uint32_t r = 0; r < CUDA_F32_ROWS; r++) {
        UNROLL
        for (int mask = 16; mask > 0; mask /= 2)
            sum[r] += exchange_f32(sum[r], mask);
        if (lane == 0 && row0 + r < p.n_row)
            p.out[(size_t)(row0 + r) * p.n_out + o] = sum[r] * p.scale[o];
    }
}

#endif
