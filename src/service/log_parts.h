/* The parts that gateways and issuers have handed to the log, and the directory that is made of them. A part replaces
 * the one of its name. One thread. */
#ifndef ST_SERVICE_LOG_PARTS_H
#define ST_SERVICE_LOG_PARTS_H

#include "service/submitters.h"

struct st_log_part {
    struct st_directory row; /* its only gateway or issuer */
    struct st_buf text;      /* in the one spelling */
};
struct st_log_parts {
    struct st_log_part *of[ST_DIRECTORY_MAX_GATEWAYS + ST_DIRECTORY_MAX_ISSUERS]; /* in the order of the directory */
    size_t n;
    bool changed; /* since whoever reads it last set it to false */
};

/* INPUT: it is not the submitter's part, or the directory would become too large (a quarter of it is the issuers').
 * Nothing has changed then. */
int st_log_parts_put(struct st_log_parts *p, const struct st_submitter *who, struct st_span bytes,
                     struct st_err *e) ST_MUST_CHECK;
/* Takes the rows of a directory of which somebody in *s is the submitter; changed when one is left out. */
int st_log_parts_restore(struct st_log_parts *p, const struct st_directory *d, const struct st_submitters *s,
                         struct st_err *e) ST_MUST_CHECK;
/* Appends the directory of these parts; time and every give its epoch. */
int st_log_parts_write(const struct st_log_parts *p, int64_t time, uint32_t every, struct st_buf *out,
                       struct st_err *e) ST_MUST_CHECK;
void st_log_parts_wipe(struct st_log_parts *p);

#endif
