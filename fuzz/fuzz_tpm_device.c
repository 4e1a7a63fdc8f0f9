/* Any bytes as what was read of a device's TPM, and as a recipient of kind tpm. */
#include "protect/sealed/device.h"
#include "protect/sealed/recipient.h"

#include <stdlib.h>

extern const struct st_recipient_kind st_recipient_tpm;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_sealed_device d;
    struct st_buf said = {0};
    struct st_err e;
    json_t *entry = NULL;
    if (!st_sealed_device_parse((struct st_span){data, size}, "device", &d, &e)) {
        if (!d.storage.key || !st_tpm_pcrs_ok(&d.values.pcrs))
            abort();
        st_sealed_device_free(&d);
    }
    if (!st_json_parse(data, size, "entry", &entry, &e) && json_is_object(entry))
        st_recipient_tpm.describe(entry, &said);
    json_decref(entry);
    st_buf_free(&said);
    return 0;
}
