/* The header includes all headers that it needs, and is valid C99 and C++. tests/c/run compiles this file as both. */

#include "pve_tunnel.h"

/* The types that callers use in their declarations. */
struct user {
    pve_tunnel_codec *codec;
    pve_tunnel_status status;
    size_t length;
    bool end;
};

int main(void)
{
    struct user user;
    user.codec = NULL;
    user.status = PVE_TUNNEL_STATUS_OK;
    user.length = 0;
    user.end = false;
    return user.codec != NULL || user.status != 0 || user.length != 0 || user.end || PVE_TUNNEL_ABI_VERSION != 0;
}
