#include "protect/masked/rows.h"
#include "field/fq.h"
#include "field/mask_kernels.h"

#include <math.h>

#define MIN_STEPS 256.0
/* What alpha gives up so that rounding in f32 cannot pass the bound: alpha itself and each product alpha x_i are off by
 * 2^-24 of their size. */
#define MARGIN 0x1p-20
/* Beyond these the scale is no normal f32. A row of zeros takes the largest, which also makes the noise of a mask
 * vanish. */
#define MAX_ALPHA 0x1p96
#define MIN_ALPHA 0x1p-96

int st_rows_alpha(const float *x, uint32_t d, double norm, double slack, float *alpha, struct st_err *e)
{
    double square = x ? st_mask_kernels()->square(x, d) : 1;
    double room = ST_FQ / 2.0 / norm - slack - sqrt(d) / 2;
    if (!isfinite(square))
        return st_fail(e, ST_VERIFY, "a row holds a value that is not finite");
    if (!(room >= MIN_STEPS))
        return st_fail(e, ST_UNSUPPORTED,
                       "%u inputs with columns of norm %.0f leave %.0f steps below the modulus, want %.0f", d, norm,
                       room > 0 ? room : 0.0, MIN_STEPS);
    double a = square > 0 ? room * (1 - MARGIN) / sqrt(square) : MAX_ALPHA;
    if (a < MIN_ALPHA)
        return st_fail(e, ST_VERIFY, "a row holds values beyond %g", room / MIN_ALPHA);
    *alpha = (float)(a < MAX_ALPHA ? a : MAX_ALPHA);
    return 0;
}
