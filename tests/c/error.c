/* An error is a negative status and a message. Both stay until the next call of the thread, and outputs are not changed. */

#include <pthread.h>
#include <string.h>

#include "check.h"

static const char *const GOOD_FINGERPRINT = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

static void *another_thread(void *unused)
{
    (void)unused;
    CHECK(pve_tunnel_last_status() == PVE_TUNNEL_STATUS_OK);
    CHECK(strcmp(pve_tunnel_last_error(), "") == 0);
    char *text = NULL;
    CHECK_STATUS(pve_tunnel_fingerprint_parse(NULL, &text), PVE_TUNNEL_STATUS_NULL_POINTER);
    return NULL;
}

static void bad_text_is_refused(void)
{
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_plan("{\"migration_type\":\"\xff\"}", &out), PVE_TUNNEL_STATUS_NOT_UTF8);
    CHECK(strstr(pve_tunnel_last_error(), "from byte 19") != NULL);
    CHECK_STATUS(pve_tunnel_fingerprint_parse("\xc3\x28", &out), PVE_TUNNEL_STATUS_NOT_UTF8);
    CHECK_STATUS(pve_tunnel_plan("{", &out), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_plan("", &out), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);

    /* One byte above the limit of 1 MiB, and at the limit. Spaces are incomplete JSON, which is another error. */
    size_t limit = 1 << 20;
    char *big = malloc(limit + 2);
    CHECK(big != NULL);
    memset(big, ' ', limit + 1);
    big[limit + 1] = '\0';
    CHECK_STATUS(pve_tunnel_plan(big, &out), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_STATUS(pve_tunnel_version_reply_parse(big, &out), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_STATUS(pve_tunnel_endpoint_check(big, &out), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_STATUS(pve_tunnel_guard_check(big, &out), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_STATUS(pve_tunnel_fingerprint_parse(big, &out), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_STATUS(pve_tunnel_network_address(big, "node", &out), PVE_TUNNEL_STATUS_TOO_LONG);
    big[limit] = '\0';
    CHECK_STATUS(pve_tunnel_plan(big, &out), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);

    /* Nested deeper than a parser may recurse. */
    memset(big, '[', limit);
    CHECK_STATUS(pve_tunnel_plan(big, &out), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    free(big);
    CHECK(out == NULL);
}

static void lengths_are_bounded(void)
{
    pve_tunnel_codec *codec = NULL;
    uint8_t byte = 0;
    uint8_t *out = NULL;
    size_t length = 0;
    const uint8_t key[4] = {0, 0, 0, 0};

    /* Lengths that no object can have, for example a negative number converted to size_t. */
    CHECK_STATUS(pve_tunnel_mask(&byte, (size_t)-1, key, 0), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_OK(pve_tunnel_codec_new(NULL, &codec));
    CHECK_STATUS(pve_tunnel_codec_feed(codec, &byte, (size_t)-1), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK_STATUS(pve_tunnel_codec_encode(codec, 2, &byte, (size_t)-1, &out, &length), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK(out == NULL && length == 0);
    pve_tunnel_codec_free(codec);
}

int main(void)
{
    CHECK(pve_tunnel_last_status() == PVE_TUNNEL_STATUS_OK);
    CHECK(strcmp(pve_tunnel_last_error(), "") == 0);

    char *text = (char *)"unchanged";
    CHECK_STATUS(pve_tunnel_fingerprint_parse("zz", &text), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(strcmp(text, "unchanged") == 0);

    /* The message begins with the name of the function. Frees, versions and other threads do not change it. */
    const char *message = pve_tunnel_last_error();
    char *kept = malloc(strlen(message) + 1);
    CHECK(kept != NULL);
    strcpy(kept, message);
    CHECK(strncmp(message, "pve_tunnel_fingerprint_parse: ", strlen("pve_tunnel_fingerprint_parse: ")) == 0);
    CHECK(strchr(message, '\n') == NULL);
    pve_tunnel_string_free(NULL);
    pve_tunnel_bytes_free(NULL, 0);
    pve_tunnel_codec_free(NULL);
    (void)pve_tunnel_version();
    (void)pve_tunnel_abi_version();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, another_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(pve_tunnel_last_error() == message);
    CHECK(strcmp(message, kept) == 0);
    CHECK(pve_tunnel_last_status() == PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    free(kept);

    /* A success clears it. */
    CHECK_OK(pve_tunnel_fingerprint_parse(GOOD_FINGERPRINT, &text));
    CHECK(strcmp(pve_tunnel_last_error(), "") == 0);
    pve_tunnel_string_free(text);

    bad_text_is_refused();
    lengths_are_bounded();
    return 0;
}
