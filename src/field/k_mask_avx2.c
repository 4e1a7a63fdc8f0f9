#define ST_MASK_TABLE st_mask_avx2
#include "field/k_mask.h"
