/* The digest of a model as it is named by its owner: measured (model/measure.h), but a kit (model/kit.h) says whose,
 * and a sealed container's is that of its signed header (model/container.h), whoever its recipients are. */
#ifndef ST_MODEL_DIGEST_H
#define ST_MODEL_DIGEST_H

#include "model/measure.h"

/* As st_model_measure(); of a kit it is that of the source, as the kit says. */
int st_model_digest(const char *path, bool progress, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

#endif
