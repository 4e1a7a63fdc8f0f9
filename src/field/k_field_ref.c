#define ST_FIELD_TABLE st_field_ref
#include "field/k_field.h"
