/* store_migrate_tool.c -- cd_migrate for scripts:
 * store_migrate_tool URL SCHEMA [--dry-run] [--to N] [--nowait] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/store.h"

int main(int argc, char **argv)
{
    struct cd_migrate_conf conf = {.to = -1, .wait = true};
    struct cd_err err = {0};
    enum cd_rc rc;

    if (argc < 3)
        return 2;
    conf.url = argv[1];
    conf.schema = argv[2];
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--dry-run") == 0)
            conf.dry_run = true;
        else if (strcmp(argv[i], "--nowait") == 0)
            conf.wait = false;
        else if (strcmp(argv[i], "--to") == 0 && i + 1 < argc)
            conf.to = (int)strtol(argv[++i], NULL, 10);
    }
    cd_log_setup(CD_LOG_ERROR, 0);
    rc = cd_migrate(&conf, stdout, &err);
    if (rc != CD_OK)
        fprintf(stderr, "error: %s\n", err.text);
    return rc == CD_OK ? 0 : 1;
}
