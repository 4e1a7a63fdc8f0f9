/* Two texts side by side, wrapped to the terminal's width. Control characters and bytes that are no UTF-8 are shown as
 * U+FFFD: the texts come from a model or from a server. */
#ifndef ST_CLI_COLUMNS_H
#define ST_CLI_COLUMNS_H

#include <stdio.h>

/* Columns of the terminal at fd, 60..160; 100 when it is none. */
int st_columns_width(int fd);
void st_columns_print(FILE *f, int width, const char *left_title, const char *left, const char *right_title,
                      const char *right);

#endif
