/* The library can be loaded and unloaded at run time repeatedly, with failing calls in between. */

#include <dlfcn.h>
#include <string.h>

#define NO_LIBRARY
#include "check.h"
#include "pve_tunnel.h"

/* ISO C has no cast from void * to a function pointer. POSIX allows a copy of the pointer. */
static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    CHECK(symbol != NULL);
    memcpy(function, &symbol, sizeof symbol);
}

int main(void)
{
    for (int round = 0; round < 3; round++) {
        void *library = dlopen("libpve_tunnel.so.0", RTLD_NOW | RTLD_LOCAL);
        if (library == NULL)
            fprintf(stderr, "%s\n", dlerror());
        CHECK(library != NULL);

        uint32_t (*abi_version)(void);
        const char *(*version)(void);
        int32_t (*fingerprint_parse)(const char *, char **);
        const char *(*last_error)(void);
        find(library, "pve_tunnel_abi_version", &abi_version);
        find(library, "pve_tunnel_version", &version);
        find(library, "pve_tunnel_fingerprint_parse", &fingerprint_parse);
        find(library, "pve_tunnel_last_error", &last_error);

        CHECK(abi_version() == PVE_TUNNEL_ABI_VERSION);
        CHECK(strspn(version(), "0123456789.") >= strlen("0.0.0"));
        char *out = NULL;
        CHECK(fingerprint_parse("no fingerprint", &out) == PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
        CHECK(out == NULL);
        CHECK(strstr(last_error(), "fingerprint") != NULL);
        CHECK(dlclose(library) == 0);
    }
    return 0;
}
