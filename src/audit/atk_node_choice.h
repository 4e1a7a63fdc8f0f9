/* Whether the choice of nodes tells clients apart. Arithmetic of atk_node_choice.c on plain arrays. */
#ifndef ST_AUDIT_ATK_NODE_CHOICE_H
#define ST_AUDIT_ATK_NODE_CHOICE_H

#include "audit/traffic.h"

struct st_node_choice {
    double chi2; /* of the counts per client and node against all alike */
    size_t freedom;
    double p;    /* of a chi2 as large or larger when all are alike (Wilson and Hilferty's approximation) */
    double bits; /* mutual information of client and node, less what counts as few as these have by chance (Miller and
                    Madow) */
};
/* picks [n]; INPUT for numbers that are too large, or fewer than two of either; MEMORY. */
int st_node_choice(const struct st_traffic_pick *picks, size_t n, size_t n_client, size_t n_node,
                   struct st_node_choice *out, struct st_err *e) ST_MUST_CHECK;
/* Learns each client's shares of nodes from the first half of picks, then names the client behind each batch of `batch`
 * picks of one client in the other half. right [n_client], n_batch [n_client]: of its batches, 1 over how many clients
 * fit as well is added up where none fits better. */
int st_node_choice_name(const struct st_traffic_pick *picks, size_t n, size_t n_client, size_t n_node, size_t batch,
                        double *right, double *n_batch, struct st_err *e) ST_MUST_CHECK;

#endif
