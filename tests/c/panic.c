/* A panic inside the library is returned as an error and prints nothing. The library is still usable. */

#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define NO_LIBRARY
#include "check.h"
#include "pve_tunnel.h"

static int32_t (*panic_probe)(int32_t);
static const char *(*last_error)(void);
static int32_t (*last_status)(void);
static int32_t (*fingerprint_parse)(const char *, char **);
static void (*string_free)(char *);

static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    CHECK(symbol != NULL);
    memcpy(function, &symbol, sizeof symbol);
}

static void *panics(void *unused)
{
    (void)unused;
    CHECK(panic_probe(7) == PVE_TUNNEL_STATUS_PANIC);
    CHECK(last_status() == PVE_TUNNEL_STATUS_PANIC);
    CHECK(strncmp(last_error(), "pve_tunnel_panic_probe: ", strlen("pve_tunnel_panic_probe: ")) == 0);
    CHECK(strstr(last_error(), "deliberate, code 7") != NULL);
    CHECK(strstr(last_error(), "panic_probe.rs:") != NULL);
    /* A panic may have a payload that is not text. */
    CHECK(panic_probe(0) == PVE_TUNNEL_STATUS_PANIC);
    CHECK(strstr(last_error(), "panic without a message") != NULL);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    find(library, "pve_tunnel_panic_probe", &panic_probe);
    find(library, "pve_tunnel_last_error", &last_error);
    find(library, "pve_tunnel_last_status", &last_status);
    find(library, "pve_tunnel_fingerprint_parse", &fingerprint_parse);
    find(library, "pve_tunnel_string_free", &string_free);

    /* Rust prints panics on standard error by default. During the calls, standard error is a pipe. */
    int outputs[2];
    int kept = dup(STDERR_FILENO);
    CHECK(kept >= 0 && pipe(outputs) == 0);
    CHECK(dup2(outputs[1], STDERR_FILENO) == STDERR_FILENO);
    close(outputs[1]);
    panics(NULL);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, panics, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(dup2(kept, STDERR_FILENO) == STDERR_FILENO);
    close(kept);
    char printed;
    CHECK(read(outputs[0], &printed, 1) == 0);
    close(outputs[0]);

    char *text = NULL;
    CHECK(fingerprint_parse("00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF", &text) == 0);
    CHECK(last_status() == PVE_TUNNEL_STATUS_OK);
    CHECK(strcmp(last_error(), "") == 0);
    string_free(text);
    CHECK(dlclose(library) == 0);
    return 0;
}
