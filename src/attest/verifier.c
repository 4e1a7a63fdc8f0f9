#include "attest/verifier.h"

#include <string.h>

#define X(kind) extern const struct st_verifier st_verifier_##kind;
#include "attest/verifiers.def"
#undef X

static const struct st_verifier *const verifiers[] = {
#define X(kind) &st_verifier_##kind,
#include "attest/verifiers.def"
#undef X
    NULL};
#define N_VERIFIER ((int)(sizeof verifiers / sizeof *verifiers) - 1)

const struct st_verifier *st_verifier_at(int i)
{
    return i >= 0 && i <= N_VERIFIER ? verifiers[i] : NULL;
}

const struct st_verifier *st_verifier_find(const char *kind)
{
    for (int i = 0; i < N_VERIFIER; i++)
        if (strcmp(verifiers[i]->kind, kind) == 0)
            return verifiers[i];
    return NULL;
}

const struct st_verifier *st_verifier_recognise(const uint8_t *p, size_t len)
{
    for (int i = 0; i < N_VERIFIER; i++)
        if (verifiers[i]->recognise(p, len))
            return verifiers[i];
    return NULL;
}
