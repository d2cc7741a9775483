/* After a fork the child can use the library with new handles. A handle of the parent is refused, and freeing it does nothing. */

#define _POSIX_C_SOURCE 200809L

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void use(pve_tunnel_codec *codec)
{
    uint8_t *wire = NULL;
    size_t length = 0;
    CHECK_OK(pve_tunnel_codec_encode(codec, 2, (const uint8_t *)"data", 4, &wire, &length));
    CHECK(length == 10);
    pve_tunnel_bytes_free(wire, length);
}

/* Runs a connector whose input ends after one line. The connector must answer this line. */
static void run_connector(void)
{
    int input[2], output[2];
    CHECK(pipe(input) == 0 && pipe(output) == 0);
    CHECK(write(input[1], "{broken\n", 8) == 8);
    CHECK(close(input[1]) == 0);
    CHECK_OK(pve_tunnel_connector_run(input[0], output[1], -1, NULL));
    CHECK(close(input[0]) == 0 && close(output[1]) == 0);
    char answer[512];
    CHECK(read(output[0], answer, sizeof answer) > 0);
    CHECK(close(output[0]) == 0);
}

static void in_the_child(pve_tunnel_codec *parents, char *parents_text)
{
    /* The child has a copy of the last message of the thread that forked. */
    CHECK(pve_tunnel_last_status() == PVE_TUNNEL_STATUS_NULL_POINTER);

    uint8_t byte = 0;
    uint8_t *out = NULL;
    size_t length = 0;
    int32_t opcode = 0;
    bool end = false;
    CHECK_STATUS(pve_tunnel_codec_feed(parents, &byte, 1), PVE_TUNNEL_STATUS_WRONG_PROCESS);
    CHECK_STATUS(pve_tunnel_codec_next(parents, &opcode, &end, &out, &length), PVE_TUNNEL_STATUS_WRONG_PROCESS);
    CHECK_STATUS(pve_tunnel_codec_encode(parents, 2, &byte, 1, &out, &length), PVE_TUNNEL_STATUS_WRONG_PROCESS);
    CHECK(strstr(pve_tunnel_last_error(), "after a fork") != NULL);

    pve_tunnel_codec *own = NULL;
    CHECK_OK(pve_tunnel_codec_new(NULL, &own));
    use(own);

    /* Freeing the handle of the parent releases nothing: it can be freed twice, and a later call is still refused. */
    pve_tunnel_codec_free(parents);
    CHECK(pve_tunnel_last_status() == PVE_TUNNEL_STATUS_WRONG_PROCESS);
    CHECK(strncmp(pve_tunnel_last_error(), "pve_tunnel_codec_free: ", strlen("pve_tunnel_codec_free: ")) == 0);
    pve_tunnel_codec_free(parents);
    CHECK_STATUS(pve_tunnel_codec_feed(parents, &byte, 1), PVE_TUNNEL_STATUS_WRONG_PROCESS);

    run_connector();
    use(own);
    pve_tunnel_codec_free(own);
    pve_tunnel_string_free(parents_text);
}

int main(void)
{
    pve_tunnel_codec *codec = NULL;
    char *text = NULL;
    CHECK_OK(pve_tunnel_codec_new(NULL, &codec));
    CHECK_OK(pve_tunnel_fingerprint_parse("00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF", &text));
    use(codec);
    run_connector();
    CHECK_STATUS(pve_tunnel_codec_feed(codec, NULL, 1), PVE_TUNNEL_STATUS_NULL_POINTER);

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        in_the_child(codec, text);
        /* exit also runs the handlers of atexit, as in a child of a daemon. */
        exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);

    use(codec);
    pve_tunnel_codec_free(codec);
    pve_tunnel_string_free(text);
    return 0;
}
