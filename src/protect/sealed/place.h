/* Placement: which weights are sealed (inside) and which lie open and may be computed with by a worker (outside). A
 * preset or a file of lines `role = inside|outside` and at most one `default = inside|outside` (inside when there is
 * none), # begins a comment; roles are those of the plan (model/plan.h). Presets:
 *   paper       everything inside but o and head (SecureInfer)
 *   adapters    everything outside: the base is public; adapters are sealed by themselves
 *   all-inside  everything inside
 * Activations, attention, the cache and sampling never leave, whatever a policy says: a file may say that they are
 * inside, and is refused when it says otherwise. A router, a norm, a bias or the embedding may lie open; what it does
 * stays inside. A tensor with two roles (a tied head) lies open when one of them does. */
#ifndef ST_PROTECT_SEALED_PLACE_H
#define ST_PROTECT_SEALED_PLACE_H

#include "model/container.h"
#include "model/plan.h"

struct st_placement {
    char name[64]; /* of the preset, or "custom" */
    enum st_container_place of[ST_ROLE_COUNT];
};
/* A preset's name, or a path. USAGE: neither; INPUT: malformed, or an unknown role, named with its line; UNSUPPORTED:
 * what never leaves, outside. */
int st_placement_read(const char *name_or_file, struct st_placement *out, struct st_err *e) ST_MUST_CHECK;
int st_placement_parse(const char *text, size_t len, const char *where, struct st_placement *out,
                       struct st_err *e) ST_MUST_CHECK;
/* Row i of the presets, false behind the last: name, and text as a file to start from. */
bool st_placement_preset(size_t i, const char **name, const char **text);
/* Name i of the roles that a policy may put outside, NULL behind the last. */
const char *st_placement_role(size_t i);

/* Marks UNTRUSTED what a worker may compute: linear layers whose matrix lies outside, but routers. Experts are among
 * them only with every_expert: then every expert sees every row, since a worker that sees who takes which reads the
 * routing. Groups that are on both sides are split (st_plan_split()). */
void st_sealed_place(struct st_plan *plan, const struct st_container *c, bool every_expert);

#endif
