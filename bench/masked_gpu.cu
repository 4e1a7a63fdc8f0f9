/* Times the CUDA backend of sotto-worker: exact products of masked rows and int8 weights against a plain int8 product
 * of the same shape on the same card, for the layers of a 1B and an 8B model and 1, 8 and 64 rows.
 *
 *   cmake --build build --target masked_gpu && build/bin/masked_gpu [--csv]
 *
 * `masked` is what the device does in a call: rows split into limbs, products, recombination modulo q. `plain` is a
 * kernel of this file: bytes times int8 weights, sums scaled to f32; up to 8 rows by dp4a with 16-byte loads, more by
 * tensor cores in the tiles of the masked product. `call` is a whole call of the backend from host memory to host
 * memory. Weights are many matrices, far larger in all than the last-level cache, used in turn. Each figure is the best
 * of rounds in which the contestants take turns. Without a device it says what is missing and exits with 7. */
#include "../src/field/backend_cuda.cu"

#define TOTAL ((size_t)1 << 30) /* bytes of weights */
#define MAX_MAT 512
#define MAX_ROW 64
#define ROUNDS 9

struct shape {
    const char *model;
    uint32_t n_out, n_in, count;
};
static const struct shape shapes[] = {
    {"1B", 2048, 2048, 2}, {"1B", 512, 2048, 2},  {"1B", 8192, 2048, 2},  {"1B", 2048, 8192, 1},
    {"8B", 4096, 4096, 2}, {"8B", 1024, 4096, 2}, {"8B", 14336, 4096, 2}, {"8B", 4096, 14336, 1},
};
enum { N_SHAPE = sizeof shapes / sizeof shapes[0] };

struct plain_product {
    const int8_t *w;
    const uint8_t *rows; /* [n_row][pitch] */
    size_t pitch;
    uint32_t n_out, n_row;
    const float *scale;
    float *out; /* [n_row][n_out] */
};

/* Unsigned bytes times signed ones, four at a time. */
static __device__ __forceinline__ int dot4(uint32_t u, uint32_t s, int sum)
{
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(u), "r"(s));
    return sum;
}

/* A warp makes one output for up to 8 rows. */
template <int N_ROW> static __global__ void __launch_bounds__(CUDA_THREADS) plain_gemv(const struct plain_product p)
{
    uint32_t lane = thread() % 32, o = block_x() * (CUDA_THREADS / 32) + thread() / 32;
    int sum[N_ROW] = {0};
    if (o >= p.n_out)
        return;
#pragma unroll 4
    for (size_t k = lane * 16; k < p.pitch; k += 512) {
        struct words4 w = load16(p.w + o * p.pitch + k);
        UNROLL
        for (int r = 0; r < N_ROW; r++) {
            struct words4 u = load16(p.rows + r * p.pitch + k);
            sum[r] = dot4(u.x, w.x, dot4(u.y, w.y, dot4(u.z, w.z, dot4(u.w, w.w, sum[r]))));
        }
    }
    UNROLL
    for (int r = 0; r < N_ROW; r++) {
        int total = __reduce_add_sync(0xffffffff, sum[r]);
        if (lane == 0)
            p.out[(size_t)r * p.n_out + o] = (float)total * p.scale[o];
    }
}

/* 64 outputs times 64 rows; 8 warps 2 x 4, each 32 outputs times 16 rows. */
static __global__ void __launch_bounds__(CUDA_THREADS) plain_gemm(const struct plain_product p)
{
    enum { TILE = 64 * CUDA_STEP };
    SHARED uint8_t memory[CUDA_STAGES * 2 * TILE];
    uint32_t warp = thread() / 32, lane = thread() % 32, out0 = block_x() * 64;
    uint32_t m = warp / 4 * 32, n = warp % 4 * 16, n_step = (uint32_t)(p.pitch / CUDA_STEP);
    int sum[2][2][4] = {};
    for (uint32_t s = 0; s < CUDA_STAGES - 1 + n_step; s++) {
        if (s >= CUDA_STAGES - 1) {
            copy_wait();
            sync_block();
        }
        if (s < n_step) {
            uint8_t *at = memory + s % CUDA_STAGES * 2 * TILE;
            fetch_tile(at, (const uint8_t *)p.w, p.pitch, out0, p.n_out, s * CUDA_STEP, 64);
            fetch_tile(at + TILE, p.rows, p.pitch, 0, p.n_row, s * CUDA_STEP, 64);
        }
        copy_commit();
        if (s < CUDA_STAGES - 1)
            continue;
        const uint8_t *a = memory + (s - (CUDA_STAGES - 1)) % CUDA_STAGES * 2 * TILE, *b = a + TILE;
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t av[2][4], bv[4];
            UNROLL
            for (uint32_t i = 0; i < 2; i++)
                load_matrix4(av[i], a + tile_at(m + i * 16 + lane % 16, half * 2 + lane / 16));
            load_matrix4(bv, b + tile_at(n + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
            UNROLL
            for (int i = 0; i < 2; i++)
                UNROLL
            for (int j = 0; j < 2; j++)
                multiply(sum[i][j], av[i], bv + j * 2);
        }
    }
    UNROLL
    for (int i = 0; i < 2; i++)
        UNROLL
    for (int j = 0; j < 2; j++)
        UNROLL
    for (int e = 0; e < 4; e++) {
        uint32_t o = out0 + m + i * 16 + lane / 4 + e / 2 * 8, r = n + j * 8 + lane % 4 * 2 + e % 2;
        if (o < p.n_out && r < p.n_row)
            p.out[(size_t)r * p.n_out + o] = (float)sum[i][j][e] * p.scale[o];
    }
}

static void stop(int code, const char *what)
{
    fprintf(stderr, "masked_gpu: %s\n", what);
    exit(code);
}

static void must(cudaError_t rc)
{
    if (rc != cudaSuccess)
        stop(ST_IO, cudaGetErrorString(rc));
}

struct run {
    struct device *d;
    uint32_t n_mat, n_row;
    uint32_t *rows, *out; /* on the host */
    uint8_t *bytes;       /* on the device, of the plain product */
};

static void masked(struct run *r, uint32_t i)
{
    struct st_err e;
    const struct matrix *m = &r->d->matrices[i];
    size_t words = r->n_row * (m->pitch / 4);
    split<<<(uint32_t)((words + CUDA_THREADS - 1) / CUDA_THREADS), CUDA_THREADS, 0, r->d->compute>>>(
        (const uint32_t *)r->d->rows, r->n_row, m->n_in, r->d->limbs, m->pitch);
    if (start_product(r->d, m, r->n_row, (uint32_t *)r->d->result[0], &e))
        stop(e.code, e.msg);
}

static void plain(struct run *r, uint32_t i)
{
    const struct matrix *m = &r->d->matrices[i];
    struct plain_product p = {m->w, r->bytes, m->pitch, m->n_out, r->n_row, m->scale, (float *)r->d->result[1]};
    uint32_t warps = (m->n_out + CUDA_THREADS / 32 - 1) / (CUDA_THREADS / 32);
    if (r->n_row == 1)
        plain_gemv<1><<<warps, CUDA_THREADS, 0, r->d->compute>>>(p);
    else if (r->n_row == 8)
        plain_gemv<8><<<warps, CUDA_THREADS, 0, r->d->compute>>>(p);
    else
        plain_gemm<<<(m->n_out + 63) / 64, CUDA_THREADS, 0, r->d->compute>>>(p);
    must(cudaGetLastError());
}

static void call(struct run *r, uint32_t i)
{
    struct st_err e;
    struct st_backend_job job = {i, r->out};
    if (st_backend_cuda.multiply(r->d, r->rows, r->n_row, &job, 1, &e))
        stop(e.code, e.msg);
}

/* Seconds of one product: the best of rounds over a part of the matrices. */
static void race(struct run *r, double best[3])
{
    void (*const fns[])(struct run *, uint32_t) = {masked, plain, call};
    uint32_t next = 0;
    cudaEvent_t from, to;
    must(cudaEventCreate(&from));
    must(cudaEventCreate(&to));
    for (int round = 0; round < ROUNDS; round++)
        for (int f = 0; f < 3; f++) {
            uint32_t n = r->n_mat < 64 ? r->n_mat : 64;
            float ms = 0;
            must(cudaEventRecord(from, r->d->compute));
            for (uint32_t i = 0; i < n; i++)
                fns[f](r, next++ % r->n_mat);
            must(cudaEventRecord(to, r->d->compute));
            must(cudaEventSynchronize(to));
            must(cudaEventElapsedTime(&ms, from, to));
            double t = ms * 1e-3 / n;
            best[f] = round == 0 || t < best[f] ? t : best[f];
        }
    must(cudaEventDestroy(from));
    must(cudaEventDestroy(to));
}

static void print(bool csv, const char *model, const char *what, uint32_t n_row, double bytes, const double t[3])
{
    printf(csv ? "%s,%s,%u,%.2f,%.2f,%.3f,%.2f,%.0f\n"
               : "%-3s %-12s %3u rows  masked %9.2f us  plain %9.2f us  ratio %5.2f  call %9.2f us  %6.0f GB/s\n",
           model, what, n_row, t[0] * 1e6, t[1] * 1e6, t[0] / t[1], t[2] * 1e6, bytes / t[0] * 1e-9);
    fflush(stdout);
}

static void run_shape(bool csv, const struct shape *s, const int8_t *w, const float *scale, uint32_t n_row,
                      double sum[3])
{
    static struct st_backend_weight weights[MAX_MAT];
    struct run r = {};
    struct st_err e;
    char what[32];
    size_t size = (size_t)s->n_out * s->n_in;
    r.n_row = n_row;
    r.n_mat = (uint32_t)(TOTAL / size < MAX_MAT ? TOTAL / size : MAX_MAT);
    for (uint32_t i = 0; i < r.n_mat; i++)
        weights[i] = {w + i * size, scale, s->n_out, s->n_in};
    struct st_backend_opts o = {weights, r.n_mat, MAX_ROW, 0, NULL};
    void *device;
    if (st_backend_cuda.open(&o, &device, &e))
        stop(e.code, e.msg);
    r.d = (struct device *)device;
    r.rows = (uint32_t *)calloc((size_t)n_row * s->n_in, 4);
    r.out = (uint32_t *)calloc((size_t)n_row * s->n_out, 4);
    if (!r.rows || !r.out)
        stop(ST_MEMORY, "no memory for rows");
    for (size_t i = 0; i < (size_t)n_row * s->n_in; i++)
        r.rows[i] = (uint32_t)(i * 2654435761u) % ST_FQ;
    must(cudaMalloc((void **)&r.bytes, n_row * pitch_of(s->n_in)));
    must(cudaMemset(r.bytes, 0x5a, n_row * pitch_of(s->n_in)));
    must(cudaMemcpy(r.d->rows, r.rows, (size_t)n_row * s->n_in * 4, cudaMemcpyHostToDevice));
    must(cudaDeviceSynchronize());
    double best[3];
    race(&r, best);
    snprintf(what, sizeof what, "%ux%u", s->n_out, s->n_in);
    print(csv, s->model, what, n_row, (double)size, best);
    for (int i = 0; i < 3; i++)
        sum[i] += best[i] * s->count;
    must(cudaFree(r.bytes));
    free(r.rows);
    free(r.out);
    st_backend_cuda.close(r.d);
}

int main(int argc, char **argv)
{
    static const uint32_t rows[] = {1, 8, 64};
    bool csv = argc > 1 && strcmp(argv[1], "--csv") == 0;
    if (argc > (csv ? 2 : 1))
        stop(ST_USAGE, "usage: masked_gpu [--csv]");
    int8_t *w = (int8_t *)malloc(TOTAL);
    float *scale = (float *)malloc(16384 * sizeof *scale);
    if (!w || !scale)
        stop(ST_MEMORY, "no memory for weights");
    for (size_t i = 0; i < TOTAL; i++)
        w[i] = (int8_t)((int)(i * 2654435761u >> 24 & 255) % 255 - 127);
    for (int i = 0; i < 16384; i++)
        scale[i] = 1e-3f;
    if (csv)
        printf("model,matrix,rows,masked_us,plain_us,ratio,call_us,gbps\n");
    for (uint32_t n_row : rows) {
        double sum[3] = {0}, bytes = 0;
        for (int i = 0; i < N_SHAPE; i++) {
            run_shape(csv, &shapes[i], w, scale, n_row, sum);
            bytes += (double)shapes[i].n_out * shapes[i].n_in * shapes[i].count;
            if (i + 1 < N_SHAPE && strcmp(shapes[i + 1].model, shapes[i].model) == 0)
                continue;
            print(csv, shapes[i].model, "layer", n_row, bytes, sum);
            sum[0] = sum[1] = sum[2] = bytes = 0;
        }
    }
    free(w);
    free(scale);
    return 0;
}
