/* Are residues uniform, and independent of their neighbours? Tests of atk_uniform.c on plain arrays. */
#ifndef ST_AUDIT_ATK_UNIFORM_H
#define ST_AUDIT_ATK_UNIFORM_H

#include <stddef.h>
#include <stdint.h>

/* Chance that a chi-square variable with `freedom` degrees is at least x (Wilson and Hilferty, PNAS 17, 1931). */
double st_chi_square_tail(double x, double freedom);

/* What is counted of the residues [n_row][d] below q. Each is compared with the uniform distribution over cells. */
enum st_uniform_test {
    ST_UNIFORM_HIGH,    /* 256 equal parts of 0..q */
    ST_UNIFORM_LOW,     /* value mod 251: a small prime, so that q's last part is no bias that would be seen */
    ST_UNIFORM_ALONG,   /* 16 x 16 parts of neighbours in a row */
    ST_UNIFORM_BETWEEN, /* 16 x 16 parts of the same place in two rows that follow each other */
    ST_UNIFORM_COUNT
};
const char *st_uniform_name(enum st_uniform_test t);
/* The chance of counts at least as uneven, were residues uniform and independent; NAN: too few (below 5 in a cell). */
double st_uniform_p(enum st_uniform_test t, const uint32_t *residues, size_t n_row, size_t d);

#endif
