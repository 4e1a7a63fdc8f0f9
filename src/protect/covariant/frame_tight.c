#include "protect/covariant/frame.h"

#include <math.h>

int st_cov_frame_tight(struct st_cov_frame *f, uint32_t h, struct st_stream *s, struct st_err *e)
{
    f->spare = 2 * h;
    f->spread = 0.5f / sqrtf((float)f->d);
    int rc = st_cov_doubles(&f->reader, (size_t)f->wide * f->wide, "frame matrix", e);
    f->writer = f->reader;
    return rc ? rc : st_cov_haar(s, f->wide, f->reader, e);
}
