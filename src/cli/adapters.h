/* The LoRA adapters that --adapter names (model/adapter.h), plain directories or sealed containers, opened for the call
 * that opens the model: it copies their matrices, so that afterwards neither they nor their keys are needed. */
#ifndef ST_CLI_ADAPTERS_H
#define ST_CLI_ADAPTERS_H

#include "cli/sealed.h"
#include "model/adapter.h"

struct st_adapters {
    struct st_adapter *list[ST_ADAPTERS_MAX];
    struct st_sealed_file files[ST_ADAPTERS_MAX]; /* container NULL: it is not sealed */
    char *paths[ST_ADAPTERS_MAX];
    uint32_t n;
};

/* Whether one of them is sealed. */
bool st_adapters_sealed(const struct st_cli *cli);
/* All of them, keys unwrapped as for a sealed model (cli/sealed.h), behind st_hold_begin(). Errors: those of
 * st_adapter_open() and st_sealed_unlock(). */
int st_adapters_open(const struct st_cli *cli, struct st_adapters *out, struct st_err *e) ST_MUST_CHECK;
void st_adapters_close(struct st_adapters *a);

#endif
