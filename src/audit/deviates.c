#include "audit/deviates.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

#define TABLE (1 << 20)

static void two(struct st_rng *rng, float out[2])
{
    double r = sqrt(-2 * log(1 - st_rng_unit(rng))), turn = 2 * M_PI * st_rng_unit(rng);
    out[0] = (float)(r * cos(turn));
    out[1] = (float)(r * sin(turn));
}

float st_deviate(struct st_rng *rng)
{
    float z[2];
    two(rng, z);
    return z[0];
}

void st_deviates(struct st_rng *rng, double by, const float *from, float *to, size_t n)
{
    float z[2];
    for (size_t i = 0; i < n; i++) {
        if (i % 2 == 0)
            two(rng, z);
        to[i] = (from ? from[i] : 0) + (float)(by * z[i % 2]);
    }
}

int st_noise_table_new(struct st_noise_table *t, size_t least, uint64_t seed, struct st_err *e)
{
    struct st_rng rng;
    *t = (struct st_noise_table){.n = 2 * least > TABLE ? 2 * least : TABLE};
    if (st_alloc(&t->at, t->n, sizeof *t->at, "noise", e))
        return e->code;
    st_rng_seed(&rng, seed);
    st_deviates(&rng, 1, NULL, t->at, t->n);
    return 0;
}

void st_noise_table_free(struct st_noise_table *t)
{
    free(t->at);
    *t = (struct st_noise_table){0};
}

const float *st_noise_pick(const struct st_noise_table *t, uint64_t number, size_t n)
{
    struct st_rng rng;
    st_rng_seed(&rng, number);
    return t->at + st_rng_next(&rng) % (t->n - n + 1);
}
