#define ST_FIELD_TABLE st_field_avx512
#include "field/k_field.h"
