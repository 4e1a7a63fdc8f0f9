#include "base/file.h"
#include "crypto/digest.h"
#include "protect/covariant/covariant.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define LAMBDA_MAX 1.0 /* beyond it B is near-singular by luck, and bf16 loses the model at 3 */
#define ALPHA_MAX 100.0
#define GAMMA_MAX 1e12
#define BETA_MAX 128
#define HOMOPHONES_MAX 64
#define MEMORY_MIN ((uint64_t)64 << 20)

void st_cov_opts_init(struct st_cov_opts *o, enum st_cov_preset preset)
{
    *o = (struct st_cov_opts){.preset = preset, .gamma = 1e3};
    if (preset == ST_COV_PRESET_PAPER) {
        o->lambda = 0.3;
        o->alpha_e = 1.0;
        o->alpha_h = 0.2;
        o->beta = 8;
    }
}

const char *st_cov_preset_name(enum st_cov_preset p)
{
    return p == ST_COV_PRESET_PAPER ? "paper" : "tight";
}

const char *st_cov_format_name(enum st_cov_format f)
{
    return f == ST_COV_FORMAT_GGUF ? "gguf" : "hf";
}

const char *st_cov_store_name(enum st_cov_store s)
{
    static const char *const names[] = {"keep", "f32", "f16", "bf16", "q8_0"};
    return names[s];
}

static int check_real(const char *name, double v, double max, struct st_err *e)
{
    if (v >= 0 && v <= max)
        return 0;
    return st_fail(e, ST_USAGE, "%s: want a number in 0..%g, got %g", name, max, v);
}

static int check_numbers(const struct st_cov_opts *o, struct st_err *e)
{
    int rc = check_real("lambda", o->lambda, LAMBDA_MAX, e);
    if (!rc)
        rc = check_real("alpha-e", o->alpha_e, ALPHA_MAX, e);
    if (!rc)
        rc = check_real("alpha-h", o->alpha_h, ALPHA_MAX, e);
    if (!rc)
        rc = check_real("noise-all", o->noise_all, ALPHA_MAX, e);
    if (!rc)
        rc = check_real("gamma", o->gamma, GAMMA_MAX, e);
    if (!rc && o->beta > BETA_MAX)
        rc = st_fail(e, ST_USAGE, "beta: want 0..%d pairs, got %u", BETA_MAX, o->beta);
    if (!rc && o->beta > 1 && !(o->gamma > 0))
        rc = st_fail(e, ST_USAGE, "beta %u needs a gamma above 0: several times the context length", o->beta);
    if (!rc && o->homophones > HOMOPHONES_MAX)
        rc = st_fail(e, ST_USAGE, "homophones: want 0..%d, got %u", HOMOPHONES_MAX, o->homophones);
    if (!rc && o->memory_bytes && o->memory_bytes < MEMORY_MIN)
        rc = st_fail(e, ST_USAGE, "memory: want at least 64 MiB beyond the key matrices");
    return rc;
}

int st_cov_opts_check(const struct st_cov_opts *o, struct st_err *e)
{
    int rc = check_numbers(o, e);
    if (rc)
        return rc;
    if (o->preset == ST_COV_PRESET_TIGHT && o->lambda > 0)
        return st_fail(e, ST_USAGE, "lambda: preset tight has none; it belongs to preset paper");
    if (o->preset == ST_COV_PRESET_TIGHT && o->beta > 1)
        return st_fail(e, ST_USAGE,
                       "beta: preset tight moves no rotary pairs, which costs accuracy; it belongs to "
                       "preset paper");
    if (o->preset == ST_COV_PRESET_TIGHT && o->calibrate && !o->homophones)
        return st_fail(e, ST_USAGE,
                       "calibrate: preset tight knows its norms exactly; it belongs to preset paper, or to homophones");
    if (o->dtype == ST_COV_STORE_Q8_0 && o->format != ST_COV_FORMAT_GGUF)
        return st_fail(e, ST_USAGE, "dtype q8_0: only format gguf has it");
    if (o->homophones && !(o->alpha_e > 0))
        return st_fail(e, ST_USAGE,
                       "homophones: without noise on the embedding (alpha-e) the rows of one token are equal and hide "
                       "nothing");
    return 0;
}

/* The text that norms are calibrated on, by content. */
static int calibration(const char *path, char hex[65], struct st_err *e)
{
    struct st_map map;
    uint8_t sum[32];
    if (!path) {
        snprintf(hex, 65, "own");
        return 0;
    }
    int rc = st_map_open(path, &map, e);
    if (rc)
        return rc;
    st_sha256(map.p, map.len, sum);
    st_hex(sum, sizeof sum, hex);
    st_map_close(&map);
    return 0;
}

int st_cov_opts_line(const struct st_cov_opts *o, uint32_t h, char *out, size_t cap, struct st_err *e)
{
    char text[65];
    int rc = calibration(o->calibrate, text, e);
    if (rc)
        return rc;
    int n =
        snprintf(out, cap,
                 "preset=%s h=%u lambda=%.17g alpha-e=%.17g alpha-h=%.17g noise-all=%.17g beta=%u gamma=%.17g "
                 "homophones=%u format=%s dtype=%s shard=%" PRIu64 " calibrate=%s",
                 st_cov_preset_name(o->preset), h, o->lambda, o->alpha_e, o->alpha_h, o->noise_all, o->beta, o->gamma,
                 o->homophones, st_cov_format_name(o->format), st_cov_store_name(o->dtype), o->shard_bytes, text);
    return n > 0 && (size_t)n < cap ? 0 : st_fail(e, ST_INTERNAL, "options: line too long");
}

bool st_cov_opts_exact(const struct st_cov_opts *o)
{
    return o->preset == ST_COV_PRESET_TIGHT && o->alpha_e <= 0 && o->alpha_h <= 0 && o->noise_all <= 0 && o->beta < 2;
}
