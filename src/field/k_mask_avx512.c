#define ST_MASK_TABLE st_mask_avx512
#include "field/k_mask.h"
