#define ST_MASK_TABLE st_mask_ref
#include "field/k_mask.h"
