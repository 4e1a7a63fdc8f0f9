/* Placement: which weights are sealed (inside) and which lie open and may be computed with by a worker (outside). A
 * preset or a file of lines `role = inside|outside` and at most one `default = inside|outside` (inside when there is
 * none), # begins a comment; roles are those of the plan (model/plan.h). Presets:
 *   paper       everything inside but o and head (SecureInfer)
 *   adapters    everything outside: the base is public; adapters are sealed by themselves
 *   all-inside  everything inside
 * Activations, the cache and sampling never leave, whatever a policy says: a file may say that they are inside, and is
 * refused when it says otherwise. Attention products leave only where a file says `attention = outside`, which is
 * refused without st_placement_opts.attention, and whoever runs the model says so again: what hides them is breakable
 * (protect/masked/attention_packed.h). A router, a norm, a bias or the embedding may lie open; what it does
 * stays inside. A tensor with two roles (a tied head) lies open when one of them does. */
#ifndef ST_PROTECT_SEALED_PLACE_H
#define ST_PROTECT_SEALED_PLACE_H

#include "model/container.h"
#include "model/plan.h"

struct st_placement {
    char name[64];  /* of the preset, "custom", or ST_PLACEMENT_ATTENTION */
    bool attention; /* its products may leave */
    enum st_container_place of[ST_ROLE_COUNT];
};
/* What containers are called by whose owner lets attention products leave: st_container_about.policy. */
#define ST_PLACEMENT_ATTENTION "custom, attention outside (breakable)"
/* A preset's name, or a path; attention: a file may let its products leave. USAGE: neither, or attention that stays
 * although it was asked for; INPUT: malformed, or an unknown role, named with its line; POLICY: attention outside
 * without being asked for; UNSUPPORTED: what never leaves, outside. */
int st_placement_read(const char *name_or_file, bool attention, struct st_placement *out,
                      struct st_err *e) ST_MUST_CHECK;
int st_placement_parse(const char *text, size_t len, const char *where, bool attention, struct st_placement *out,
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
