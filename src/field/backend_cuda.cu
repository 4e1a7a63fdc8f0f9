/* The worker's arithmetic on an NVIDIA GPU of compute capability 8.0 or later.
 *
 * Weights are uploaded once, rows padded to steps of 64 bytes. A call goes through in blocks of rows whose data fit the
 * pinned buffers: rows up, split into limbs on the device, then one product after the other, while the results of the
 * one before come down into the other of two buffers and are copied to the caller.
 *
 * Not run so far: no GPU was at hand. It compiles, open() without a device says so, and the index arithmetic of the
 * kernels is tested on the CPU (tests/test_cuda_emulation.c); tests/test_backend.c runs it where a device is. */
extern "C" {
#include "base/buf.h"
#include "base/mem.h"
#include "field/backend.h"
#include "field/fq.h"
#include "tensor/limb.h"

extern const struct st_backend st_backend_cuda;
}

#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL static __global__ void __launch_bounds__(CUDA_THREADS)
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__ __align__(128)
#define UNROLL _Pragma("unroll")

struct words4 {
    uint32_t x, y, z, w;
};

static __device__ __forceinline__ uint32_t thread(void)
{
    return threadIdx.x;
}

static __device__ __forceinline__ uint32_t block_x(void)
{
    return blockIdx.x;
}

static __device__ __forceinline__ uint32_t block_y(void)
{
    return blockIdx.y;
}

static __device__ __forceinline__ void sync_block(void)
{
    __syncthreads();
}

static __device__ __forceinline__ void copy16(void *to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

static __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

static __device__ __forceinline__ words4 load16(const void *from)
{
    const uint4 v = __ldg((const uint4 *)from);
    return words4{v.x, v.y, v.z, v.w};
}

static __device__ __forceinline__ void load_matrix4(uint32_t out[4], const void *from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(from))
                 : "memory");
}

static __device__ __forceinline__ void multiply(int sum[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ int64_t exchange(int64_t x, int mask)
{
    return __shfl_xor_sync(0xffffffff, (long long)x, mask);
}

static __device__ __forceinline__ float exchange_f32(float x, int mask)
{
    return __shfl_xor_sync(0xffffffff, x, mask);
}

#include "field/k_cuda.h"

/* Bytes of each pinned buffer, more when one row is longer. */
#define BUFFER ((size_t)32 << 20)

struct matrix {
    int8_t *w; /* on the device, rows `pitch` apart */
    float *scale;
    size_t pitch;
    uint32_t n_out, n_in;
};

struct device {
    const struct st_backend_weight *weights;
    struct matrix *matrices;
    uint32_t n_weight, max_row;
    uint8_t *memory; /* all of it on the device, cut by take() */
    size_t memory_len, memory_used;
    void *rows;                /* on the device, as they came */
    uint8_t *limbs;            /* [4 rows][pitch] */
    void *up;                  /* pinned */
    void *result[2], *down[2]; /* on the device; pinned */
    size_t buffer_len;
    cudaStream_t compute, copy;
    cudaEvent_t computed[2], copied[2];
    int n_sm;
    char text[320];
};

static int fail(struct st_err *e, const char *what, cudaError_t rc)
{
    if (rc == cudaErrorMemoryAllocation)
        return st_fail(e, ST_MEMORY, "cuda: %s: %s", what, cudaGetErrorString(rc));
    return st_fail(e, ST_IO, "cuda: %s: %s", what, cudaGetErrorString(rc));
}

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        cudaError_t try_rc = (call);                                                                                   \
        if (try_rc != cudaSuccess)                                                                                     \
            return fail(e, #call, try_rc);                                                                             \
    } while (0)

static size_t pitch_of(uint32_t n_in)
{
    return ((size_t)n_in + CUDA_STEP - 1) / CUDA_STEP * CUDA_STEP;
}

static size_t aligned(size_t n)
{
    return (n + 255) / 256 * 256;
}

static void *take(struct device *d, size_t len)
{
    void *p = d->memory + d->memory_used;
    d->memory_used += aligned(len);
    return p;
}

static void cuda_close(void *b)
{
    struct device *d = (struct device *)b;
    if (!d)
        return;
    /* Nothing can be done about errors here: the device is given up. */
    for (int i = 0; i < 2; i++) {
        if (d->computed[i])
            cudaEventDestroy(d->computed[i]);
        if (d->copied[i])
            cudaEventDestroy(d->copied[i]);
        cudaFreeHost(d->down[i]);
    }
    cudaFreeHost(d->up);
    if (d->compute)
        cudaStreamDestroy(d->compute);
    if (d->copy)
        cudaStreamDestroy(d->copy);
    cudaFree(d->memory);
    free(d->matrices);
    free(d);
}

static int find_device(struct device *d, struct st_err *e)
{
    int n = 0;
    cudaDeviceProp prop;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaErrorInsufficientDriver)
        return st_fail(e, ST_UNSUPPORTED, "device 'cuda': no NVIDIA driver, or one older than this build (%d.%d)",
                       CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100);
    if (rc == cudaErrorNoDevice || (rc == cudaSuccess && n == 0))
        return st_fail(e, ST_UNSUPPORTED, "device 'cuda': the driver finds no GPU");
    if (rc != cudaSuccess)
        return st_fail(e, ST_UNSUPPORTED, "device 'cuda': %s", cudaGetErrorString(rc));
    TRY(cudaSetDevice(0));
    TRY(cudaGetDeviceProperties(&prop, 0));
    if (prop.major < 8)
        return st_fail(e, ST_UNSUPPORTED, "device 'cuda': %s has compute capability %d.%d, want 8.0 or later",
                       prop.name, prop.major, prop.minor);
    d->n_sm = prop.multiProcessorCount;
    snprintf(d->text, sizeof d->text, "%s, compute capability %d.%d", prop.name, prop.major, prop.minor);
    return 0;
}

/* How much device memory all of it takes; lays out the buffers' length. */
static size_t plan_memory(struct device *d)
{
    size_t total = 0, longest = 1, limbs = 0;
    for (uint32_t i = 0; i < d->n_weight; i++) {
        const struct st_backend_weight *w = &d->weights[i];
        size_t pitch = pitch_of(w->n_in), wide = w->n_in > w->n_out ? w->n_in : w->n_out;
        total += aligned(pitch * w->n_out) + aligned(w->n_out * sizeof(float));
        longest = wide > longest ? wide : longest;
    }
    d->buffer_len = longest * 4 > BUFFER ? longest * 4 : BUFFER;
    /* Rows of a block hold at most buffer_len bytes; each of their 4 limbs is padded by less than a step. */
    limbs = d->buffer_len + (size_t)d->max_row * 4 * CUDA_STEP;
    return total + 3 * aligned(d->buffer_len) + aligned(limbs);
}

static int reserve(struct device *d, struct st_err *e)
{
    size_t unused = 0, all = 0;
    char want[ST_MEM_TEXT], have[ST_MEM_TEXT], of[ST_MEM_TEXT];
    d->memory_len = plan_memory(d);
    TRY(cudaMemGetInfo(&unused, &all));
    if (d->memory_len > unused || cudaMalloc((void **)&d->memory, d->memory_len) != cudaSuccess) {
        d->memory = NULL;
        return st_fail(e, ST_MEMORY, "cuda: weights and buffers need %s; the device has %s free of %s",
                       st_mem_text(d->memory_len, want), st_mem_text(unused, have), st_mem_text(all, of));
    }
    for (int i = 0; i < 2; i++) {
        d->result[i] = take(d, d->buffer_len);
        TRY(cudaMallocHost(&d->down[i], d->buffer_len));
        TRY(cudaEventCreateWithFlags(&d->computed[i], cudaEventDisableTiming));
        TRY(cudaEventCreateWithFlags(&d->copied[i], cudaEventDisableTiming));
    }
    d->rows = take(d, d->buffer_len);
    d->limbs = (uint8_t *)take(d, d->buffer_len + (size_t)d->max_row * 4 * CUDA_STEP);
    TRY(cudaMallocHost(&d->up, d->buffer_len));
    TRY(cudaStreamCreateWithFlags(&d->compute, cudaStreamNonBlocking));
    TRY(cudaStreamCreateWithFlags(&d->copy, cudaStreamNonBlocking));
    return 0;
}

static int upload(struct device *d, struct st_err *e)
{
    for (uint32_t i = 0; i < d->n_weight; i++) {
        const struct st_backend_weight *w = &d->weights[i];
        struct matrix *m = &d->matrices[i];
        m->n_out = w->n_out;
        m->n_in = w->n_in;
        m->pitch = pitch_of(w->n_in);
        m->w = (int8_t *)take(d, m->pitch * w->n_out);
        m->scale = (float *)take(d, w->n_out * sizeof(float));
        if (m->pitch != w->n_in)
            TRY(cudaMemset(m->w, 0, m->pitch * w->n_out));
        TRY(cudaMemcpy2D(m->w, m->pitch, w->w, w->n_in, w->n_in, w->n_out, cudaMemcpyHostToDevice));
        TRY(cudaMemcpy(m->scale, w->scale, w->n_out * sizeof(float), cudaMemcpyHostToDevice));
    }
    TRY(cudaDeviceSynchronize()); /* the streams of later work do not wait for the default one */
    return 0;
}

static int cuda_open(const struct st_backend_opts *o, void **out, struct st_err *e)
{
    struct device *d = NULL;
    *out = NULL;
    int rc = st_alloc(&d, 1, sizeof *d, "backend", e);
    if (rc)
        return rc;
    d->weights = o->weights;
    d->n_weight = o->n_weight;
    d->max_row = o->max_row;
    rc = find_device(d, e);
    if (!rc)
        rc = st_alloc(&d->matrices, d->n_weight, sizeof *d->matrices, "matrices", e);
    if (!rc)
        rc = reserve(d, e);
    if (!rc)
        rc = upload(d, e);
    if (rc) {
        cuda_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

/* One product of the rows whose limbs are on the device. */
static int start_product(struct device *d, const struct matrix *m, uint32_t n_row, uint32_t *out, struct st_err *e)
{
    for (size_t k = 0; k < m->pitch; k += ST_LIMB_MAX_K) {
        size_t left = m->pitch - k;
        struct cuda_product p;
        p.w = m->w + k;
        p.limbs = d->limbs + k;
        p.w_pitch = p.limb_pitch = m->pitch;
        p.n_out = m->n_out;
        p.n_row = n_row;
        p.n_k = (uint32_t)(left < ST_LIMB_MAX_K ? left : ST_LIMB_MAX_K);
        p.out = out;
        p.first = k == 0;
        uint32_t n_lane = n_row * 4, few = (m->n_out + CUDA_GEMV_OUT - 1) / CUDA_GEMV_OUT;
        uint32_t columns = (n_lane + CUDA_LANES - 1) / CUDA_LANES;
        if (n_lane <= 8)
            gemv_8<<<few, CUDA_THREADS, 0, d->compute>>>(p);
        else if (n_lane <= 16)
            gemv_16<<<few, CUDA_THREADS, 0, d->compute>>>(p);
        else if (n_row <= CUDA_GEMV_ROWS)
            gemv_32<<<few, CUDA_THREADS, 0, d->compute>>>(p);
        else if ((m->n_out + 127) / 128 * columns < (uint32_t)d->n_sm) /* smaller tiles give all of it work */
            gemm_64<<<dim3((m->n_out + 63) / 64, columns), CUDA_THREADS, 0, d->compute>>>(p);
        else
            gemm_128<<<dim3((m->n_out + 127) / 128, columns), CUDA_THREADS, 0, d->compute>>>(p);
        TRY(cudaGetLastError());
    }
    return 0;
}

static int start_f32(struct device *d, const struct matrix *m, uint32_t n_row, float *out, struct st_err *e)
{
    struct cuda_f32 p;
    p.w = m->w;
    p.w_pitch = m->pitch;
    p.scale = m->scale;
    p.rows = (const float *)d->rows;
    p.n_out = m->n_out;
    p.n_row = n_row;
    p.n_in = m->n_in;
    p.out = out;
    const uint32_t warps = CUDA_THREADS / 32;
    dim3 grid((m->n_out + warps - 1) / warps, (n_row + CUDA_F32_ROWS - 1) / CUDA_F32_ROWS);
    multiply_f32<<<grid, CUDA_THREADS, 0, d->compute>>>(p);
    TRY(cudaGetLastError());
    return 0;
}

/* The rows of one block; the stream orders them before the products. */
static int start_rows(struct device *d, const uint8_t *rows, uint32_t n_row, uint32_t n_in, bool field,
                      struct st_err *e)
{
    size_t len = (size_t)n_row * n_in * 4, pitch = pitch_of(n_in), words = n_row * (pitch / 4);
    TRY(cudaStreamSynchronize(d->compute)); /* the rows before these have left the buffer */
    memcpy(d->up, rows, len);
    TRY(cudaMemcpyAsync(d->rows, d->up, len, cudaMemcpyHostToDevice, d->compute));
    if (field) {
        uint32_t blocks = (uint32_t)((words + CUDA_THREADS - 1) / CUDA_THREADS);
        split<<<blocks, CUDA_THREADS, 0, d->compute>>>((const uint32_t *)d->rows, n_row, n_in, d->limbs, pitch);
        TRY(cudaGetLastError());
    }
    return 0;
}

/* Job i of a block into buffer i % 2, and its way down. */
static int start_job(struct device *d, const struct matrix *m, uint32_t n_row, bool field, int i, struct st_err *e)
{
    int at = i % 2;
    if (i >= 2)
        TRY(cudaStreamWaitEvent(d->compute, d->copied[at], 0));
    int rc = field ? start_product(d, m, n_row, (uint32_t *)d->result[at], e)
                   : start_f32(d, m, n_row, (float *)d->result[at], e);
    if (rc)
        return rc;
    TRY(cudaEventRecord(d->computed[at], d->compute));
    TRY(cudaStreamWaitEvent(d->copy, d->computed[at], 0));
    TRY(cudaMemcpyAsync(d->down[at], d->result[at], (size_t)n_row * m->n_out * 4, cudaMemcpyDeviceToHost, d->copy));
    TRY(cudaEventRecord(d->copied[at], d->copy));
    return 0;
}

static int end_job(struct device *d, const struct matrix *m, uint32_t row0, uint32_t n_row,
                   const struct st_backend_job *job, int i, struct st_err *e)
{
    TRY(cudaEventSynchronize(d->copied[i % 2]));
    memcpy((uint8_t *)job->out + (size_t)row0 * m->n_out * 4, d->down[i % 2], (size_t)n_row * m->n_out * 4);
    return 0;
}

static int run_block(struct device *d, const uint8_t *rows, uint32_t row0, uint32_t n_row, bool field,
                     const struct st_backend_job *jobs, int n_job, struct st_err *e)
{
    uint32_t n_in = d->matrices[jobs[0].weight].n_in;
    int rc = start_rows(d, rows + (size_t)row0 * n_in * 4, n_row, n_in, field, e);
    for (int i = 0; i <= n_job && !rc; i++) {
        if (i < n_job)
            rc = start_job(d, &d->matrices[jobs[i].weight], n_row, field, i, e);
        if (i > 0 && !rc)
            rc = end_job(d, &d->matrices[jobs[i - 1].weight], row0, n_row, &jobs[i - 1], i - 1, e);
    }
    return rc;
}

static int run(struct device *d, const uint8_t *rows, uint32_t n_row, bool field, const struct st_backend_job *jobs,
               int n_job, struct st_err *e)
{
    int rc = st_backend_check(d->weights, d->n_weight, d->max_row, n_row, jobs, n_job, e);
    if (rc)
        return rc;
    TRY(cudaSetDevice(0)); /* the thread that calls may not be the one that opened */
    size_t longest = d->matrices[jobs[0].weight].n_in;
    for (int i = 0; i < n_job; i++)
        longest = d->matrices[jobs[i].weight].n_out > longest ? d->matrices[jobs[i].weight].n_out : longest;
    size_t fit = d->buffer_len / 4 / longest;
    for (uint32_t row0 = 0, n; row0 < n_row && !rc; row0 += n) {
        n = n_row - row0 < fit ? n_row - row0 : (uint32_t)fit;
        rc = run_block(d, rows, row0, n, field, jobs, n_job, e);
    }
    if (rc)
        cudaDeviceSynchronize(); /* what was started must not write into the next call's buffers */
    return rc;
}

static int cuda_multiply(void *b, const uint32_t *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                         struct st_err *e)
{
    return run((struct device *)b, (const uint8_t *)rows, n_row, true, jobs, n_job, e);
}

static int cuda_multiply_f32(void *b, const float *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                             struct st_err *e)
{
    return run((struct device *)b, (const uint8_t *)rows, n_row, false, jobs, n_job, e);
}

static const char *cuda_describe(void *b)
{
    return ((struct device *)b)->text;
}

const struct st_backend st_backend_cuda = {"cuda",        cuda_open,         cuda_close,
                                           cuda_multiply, cuda_multiply_f32, NULL, cuda_describe};
