/* NVIDIA GPUs in confidential mode: report and certificate chain from the driver's library, which is opened when it is
 * needed (NVML API Reference: nvmlDeviceGetConfComputeGpuAttestationReport, nvmlDeviceGetConfComputeGpuCertificate). A
 * bundle has room for one GPU; where there are more, the others would be nobody's business: that is refused. */
#include "attest/collector.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define NVML "libnvidia-ml.so.1"
#define NVML_SUCCESS 0
#define NONCE 32

/* nvml.h: layouts that NVML keeps from version to version. */
struct certificate {
    unsigned chain_size, attestation_chain_size;
    uint8_t chain[0x1000], attestation_chain[0x1400];
};
struct report {
    unsigned cec_present, size, cec_size;
    uint8_t nonce[NONCE], bytes[0x2000], cec[0x1000];
};

struct gpu {
    void *library, *device;
    int (*shutdown)(void);
    const char *(*error)(int);
    int (*report)(void *device, struct report *r);
    int (*certificate)(void *device, struct certificate *c);
};

static int gpu_fail(const struct gpu *g, int rc, const char *what, int code, struct st_err *e)
{
    const char *why = g->error ? g->error(rc) : NULL;
    return st_fail(e, code, "nvgpu: %s: %.100s (%d)", what, why ? why : "NVML error", rc);
}

static void gpu_close(void *h)
{
    struct gpu *g = h;
    if (g->shutdown)
        (void)g->shutdown();
    if (g->library)
        dlclose(g->library);
    free(g);
}

static int find(const struct gpu *g, const char *name, void *out, struct st_err *e)
{
    void *p = dlsym(g->library, name);
    if (!p)
        return st_fail(e, ST_UNSUPPORTED, "nvgpu: the driver's NVML has no %s", name);
    memcpy(out, &p, sizeof p);
    return 0;
}

static int gpu_connect(struct gpu *g, const char *path, struct st_err *e)
{
    int (*init)(void) = NULL, (*shut)(void) = NULL, (*count)(unsigned *) = NULL, rc;
    int (*by_index)(unsigned, void **) = NULL;
    unsigned n = 0;
    g->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!g->library)
        return st_fail(e, ST_UNSUPPORTED, "nvgpu: %s cannot be opened: no NVIDIA driver", path);
    if (find(g, "nvmlInit_v2", &init, e) || find(g, "nvmlShutdown", &shut, e) ||
        find(g, "nvmlErrorString", &g->error, e) || find(g, "nvmlDeviceGetCount_v2", &count, e) ||
        find(g, "nvmlDeviceGetHandleByIndex_v2", &by_index, e) ||
        find(g, "nvmlDeviceGetConfComputeGpuAttestationReport", &g->report, e) ||
        find(g, "nvmlDeviceGetConfComputeGpuCertificate", &g->certificate, e))
        return e->code;
    if ((rc = init()) != NVML_SUCCESS)
        return gpu_fail(g, rc, "NVML does not start", ST_UNSUPPORTED, e);
    g->shutdown = shut;
    if ((rc = count(&n)) != NVML_SUCCESS)
        return gpu_fail(g, rc, "counting GPUs", ST_IO, e);
    if (n != 1)
        return st_fail(e, ST_UNSUPPORTED, "nvgpu: want one GPU, got %u: evidence has room for one", n);
    rc = by_index(0, &g->device);
    return rc == NVML_SUCCESS ? 0 : gpu_fail(g, rc, "opening the GPU", ST_IO, e);
}

static int read_chain(struct gpu *g, struct certificate *c, struct st_err *e)
{
    memset(c, 0, sizeof *c);
    int rc = g->certificate(g->device, c);
    if (rc != NVML_SUCCESS)
        return gpu_fail(g, rc, "its certificates", ST_UNSUPPORTED, e);
    return c->attestation_chain_size && c->attestation_chain_size <= sizeof c->attestation_chain
               ? 0
               : st_fail(e, ST_INPUT, "nvgpu: certificates: want 1..%zu bytes, got %u", sizeof c->attestation_chain,
                         c->attestation_chain_size);
}

/* A GPU that is not in confidential mode has no certificates to give: found out at once. */
static int gpu_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    struct gpu *g = calloc(1, sizeof *g);
    struct certificate *c = calloc(1, sizeof *c);
    int rc = g && c ? gpu_connect(g, o->nvml ? o->nvml : NVML, e) : st_fail(e, ST_MEMORY, "nvgpu: no memory");
    if (!rc)
        rc = read_chain(g, c, e);
    free(c);
    if (rc && g)
        gpu_close(g);
    else
        *h = g;
    return rc;
}

static int add_report(struct gpu *g, const uint8_t *data, struct report *r, struct st_buf *evidence, struct st_err *e)
{
    memset(r, 0, sizeof *r);
    memcpy(r->nonce, data, NONCE);
    int rc = g->report(g->device, r);
    if (rc != NVML_SUCCESS)
        return gpu_fail(g, rc, "its report", ST_IO, e);
    if (r->size == 0 || r->size > sizeof r->bytes)
        return st_fail(e, ST_INPUT, "nvgpu: report: want 1..%zu bytes, got %u", sizeof r->bytes, r->size);
    st_buf_add(evidence, r->bytes, r->size);
    return 0;
}

static int gpu_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    struct gpu *g = h;
    struct report *r = malloc(sizeof *r);
    struct certificate *c = malloc(sizeof *c);
    int rc = r && c ? 0 : st_fail(e, ST_MEMORY, "nvgpu: no memory");
    if (!rc && len != NONCE)
        rc = st_fail(e, ST_INTERNAL, "nvgpu: want %d bytes of nonce, got %zu", NONCE, len);
    if (!rc)
        rc = add_report(g, data, r, evidence, e);
    if (!rc)
        rc = read_chain(g, c, e);
    if (!rc)
        rc = endorse(ctx, ST_ENDORSEMENT_CERTS, c->attestation_chain, c->attestation_chain_size, e);
    free(r);
    free(c);
    return rc;
}

static void gpu_needs(const void *h, struct st_collect_needs *out)
{
    static const char *const devices[] = {"/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm"};
    (void)h;
    out->nvidia = true;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        st_collect_needs_write(out, devices[i]);
    st_collect_needs_read(out, "/proc/driver/nvidia");
}

const struct st_collector st_collector_nvgpu = {.kind = "nvgpu",
                                                .endorsements = 1u << ST_ENDORSEMENT_RIM | 1u << ST_ENDORSEMENT_CRL,
                                                .open = gpu_open,
                                                .collect = gpu_collect,
                                                .needs = gpu_needs,
                                                .close = gpu_close};
