/* Placement: which weights are sealed (inside) and which lie open and may be computed with by a worker (outside). A
 * preset or a file of lines `role = inside|outside`, `default = inside|outside`, with # comments; roles are those of
 * the plan (model/plan.h). Names: paper, adapters, all-inside.
 *   paper       everything inside but o and head (SecureInfer)
 *   adapters    everything outside: the base is public; adapters are sealed by themselves
 *   all-inside  everything inside
 * Activations, attention, norms, the cache and sampling never leave, whatever the policy says. */
#ifndef ST_PROTECT_SEALED_PLACE_H
#define ST_PROTECT_SEALED_PLACE_H

#include "model/container.h"
#include "model/plan.h"

struct st_placement {
    char name[64]; /* of the preset, or "custom" */
    enum st_container_place of[ST_ROLE_COUNT];
};
/* preset name, or a path. USAGE/INPUT: unknown role, named with its line. */
int st_placement_read(const char *name_or_file, struct st_placement *out, struct st_err *e) ST_MUST_CHECK;
int st_placement_parse(const char *text, size_t len, const char *where, struct st_placement *out,
                       struct st_err *e) ST_MUST_CHECK;

/* Marks UNTRUSTED what a worker may compute: linear layers whose matrix lies outside. Others stay. POLICY as
 * st_boundary_check(). */
int st_sealed_place(struct st_plan *plan, const struct st_container *c, struct st_err *e) ST_MUST_CHECK;

#endif
