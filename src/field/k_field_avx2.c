#define ST_FIELD_TABLE st_field_avx2
#include "field/k_field.h"
