/* Checks for the C clients. Each client is one program. It exits with 0 only if every check passes. */

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

/* Checks the status of a call. Clients that load the library at run time define NO_LIBRARY first. */
#ifndef NO_LIBRARY
#include "pve_tunnel.h"

#define CHECK_STATUS(call, expected)                                                       \
    do {                                                                                   \
        int32_t check_status = (call);                                                     \
        if (check_status != (expected) || pve_tunnel_last_status() != (expected)) {        \
            fprintf(stderr, "%s:%d: %s is %d (%s), expected %d\n", __FILE__, __LINE__,     \
                    #call, (int)check_status, pve_tunnel_last_error(), (int)(expected));   \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

#define CHECK_OK(call) CHECK_STATUS(call, PVE_TUNNEL_STATUS_OK)
#endif

#endif
