/* Does the choice of a node tell who chose? The gateway sees which node each request is for. If a client kept to nodes
 * of its own, its requests could be put together, and known again tomorrow. It learns from one half of the picks which
 * clients favour which nodes, and names the client behind each batch of the other half. The proxy's draw is uniform
 * over all verified nodes (service/conf_nodes.h); one node for each client is the unprotected case.
 *
 * Source: docs/confidential.md; Apple's "target diffusion" is the same demand. */
#include "audit/atk_node_choice.h"
#include "audit/attack.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 16

static int counts(const struct st_traffic_pick *picks, size_t n, size_t n_client, size_t n_node, double **out,
                  struct st_err *e)
{
    if (n_client < 2 || n_node < 2)
        return st_fail(e, ST_INPUT, "picks: want two clients and two nodes, got %zu and %zu", n_client, n_node);
    int rc = st_alloc(out, n_client, n_node * sizeof **out, "picks", e);
    for (size_t i = 0; !rc && i < n; i++) {
        if (picks[i].client >= n_client || picks[i].node >= n_node)
            rc = st_fail(e, ST_INPUT, "picks: client %u, node %u; there are %zu and %zu", picks[i].client,
                         picks[i].node, n_client, n_node);
        else
            (*out)[picks[i].client * n_node + picks[i].node]++;
    }
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* Upper tail of chi-squared: its cube root is nearly normal. */
static double tail(double chi2, double freedom)
{
    double v = 2 / (9 * freedom);
    return 0.5 * erfc((cbrt(chi2 / freedom) - (1 - v)) / sqrt(2 * v));
}

int st_node_choice(const struct st_traffic_pick *picks, size_t n, size_t n_client, size_t n_node,
                   struct st_node_choice *out, struct st_err *e)
{
    double *c = NULL, *of_node = NULL;
    *out = (struct st_node_choice){.freedom = n_client * (n_node - 1)};
    int rc = counts(picks, n, n_client, n_node, &c, e);
    if (!rc)
        rc = st_alloc(&of_node, n_node, sizeof *of_node, "picks", e);
    for (size_t i = 0; !rc && i < n_client * n_node; i++)
        of_node[i % n_node] += c[i];
    for (size_t k = 0; !rc && k < n_client; k++) {
        double of_client = 0;
        for (size_t j = 0; j < n_node; j++)
            of_client += c[k * n_node + j];
        double want = of_client / (double)n_node;
        for (size_t j = 0; j < n_node && of_client > 0; j++) {
            double x = c[k * n_node + j];
            out->chi2 += (x - want) * (x - want) / want;
            if (x > 0)
                out->bits += x / (double)n * log2(x * (double)n / (of_client * of_node[j]));
        }
    }
    if (!rc) {
        out->p = tail(out->chi2, (double)out->freedom);
        out->bits -= (double)((n_client - 1) * (n_node - 1)) / (2 * (double)n * M_LN2);
        out->bits = out->bits > 0 ? out->bits : 0;
    }
    free(c);
    free(of_node);
    return rc;
}

/* The chance that this batch of a client's is given to it. learned [n_client, n_node] counts; batch [n_node]. */
static double name_one(const double *learned, const double *batch, size_t n_client, size_t n_node, uint32_t client)
{
    double right = 0;
    size_t as_good = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t k = 0; k < n_client; k++) {
            double sum = 0, fit = 0;
            for (size_t j = 0; j < n_node; j++)
                sum += learned[k * n_node + j] + 1;
            for (size_t j = 0; j < n_node; j++)
                fit += batch[j] * log((learned[k * n_node + j] + 1) / sum);
            if (pass == 0 && k == client)
                right = fit;
            if (pass == 1 && fit > right + 1e-9)
                return 0;
            as_good += pass == 1 && fit >= right - 1e-9;
        }
    return 1 / (double)as_good;
}

int st_node_choice_name(const struct st_traffic_pick *picks, size_t n, size_t n_client, size_t n_node, size_t batch,
                        double *right, double *n_batch, struct st_err *e)
{
    double *learned = NULL, *now = NULL;
    size_t half = n / 2;
    memset(right, 0, n_client * sizeof *right);
    memset(n_batch, 0, n_client * sizeof *n_batch);
    int rc = counts(picks, n, n_client, n_node, &now, e); /* checks all of them */
    free(now);
    if (!rc)
        rc = counts(picks, half, n_client, n_node, &learned, e);
    if (!rc)
        rc = st_alloc(&now, n_node, sizeof *now, "picks", e);
    else
        now = NULL;
    for (uint32_t client = 0; !rc && client < n_client; client++) {
        size_t have = 0;
        memset(now, 0, n_node * sizeof *now);
        for (size_t i = half; i < n; i++) {
            if (picks[i].client != client)
                continue;
            now[picks[i].node]++;
            if (++have == batch) {
                right[client] += name_one(learned, now, n_client, n_node, client);
                n_batch[client]++;
                memset(now, 0, n_node * sizeof *now);
                have = 0;
            }
        }
    }
    free(learned);
    free(now);
    return rc;
}

/* What the same attack gets where each client keeps to a node: its own, as far as there are nodes. */
static int of_own_nodes(const struct st_traffic *t, size_t n, double *out, struct st_err *e)
{
    struct st_traffic_pick *picks = NULL;
    double *right = NULL, sum = 0, n_batch = 0;
    int rc = st_alloc(&picks, n, sizeof *picks, "picks", e);
    if (!rc)
        rc = st_alloc(&right, 2 * t->n_client, sizeof *right, "picks", e);
    for (size_t i = 0; !rc && i < n; i++)
        picks[i] = (struct st_traffic_pick){(uint32_t)(i % t->n_client), (uint32_t)(i % t->n_client % t->n_node)};
    if (!rc)
        rc = st_node_choice_name(picks, n, t->n_client, t->n_node, BATCH, right, right + t->n_client, e);
    for (size_t k = 0; !rc && k < t->n_client; k++) {
        sum += right[k];
        n_batch += right[t->n_client + k];
    }
    *out = n_batch > 0 ? sum / n_batch : NAN;
    free(picks);
    free(right);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_traffic *t = a->target->traffic;
    struct st_node_choice c;
    double *right = NULL;
    if (!t || t->n_pick == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs the traffic of a set-up");
    struct st_row row = {.chance = 1 / (double)t->n_client, .unprotected = NAN};
    size_t each = t->n_pick / t->n_draw, n_group = t->n_draw * t->n_client;
    int rc = st_node_choice(t->picks, t->n_pick, t->n_client, t->n_node, &c, e);
    if (!rc)
        rc = st_alloc(&right, 2 * n_group, sizeof *right, "picks", e);
    for (size_t k = 0; !rc && k < t->n_draw; k++)
        rc = st_node_choice_name(t->picks + k * each, each, t->n_client, t->n_node, BATCH, right + k * t->n_client,
                                 right + n_group + k * t->n_client, e);
    if (!rc)
        rc = of_own_nodes(t, each, &row.unprotected, e);
    if (!rc) {
        st_row_groups(&row, right, right + n_group, n_group); /* batches of a client share what was learned of it */
        snprintf(row.variant, sizeof row.variant, "%zu clients, %zu nodes, %d requests each time", t->n_client,
                 t->n_node, BATCH);
        snprintf(row.note, sizeof row.note,
                 "The proxy's own draw, in process, %zu times: %.2g bits of the client in a node; all alike at p = "
                 "%.2f.",
                 t->n_draw, c.bits, c.p);
        rc = st_rows_add(rows, &row, e);
    }
    free(right);
    return rc;
}

const struct st_attack st_atk_node_choice = {.name = "node-choice",
                                             .title = "Clients told apart by the nodes that they choose",
                                             .metric = "chance to name the client behind a batch of requests",
                                             .source = "docs/confidential.md",
                                             .adversary = ST_ADVERSARY_GATEWAY,
                                             .needs = ST_TARGET_TRAFFIC,
                                             .run = run};
