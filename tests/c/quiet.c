/* No call prints anything or changes a signal handler, whether it succeeds or fails. */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

enum { SIGNALS = SIGSYS };

static void handler(int number)
{
    (void)number;
}

/* Calls of every kind: successes, failures of each part, and a connector with an error to report. */
static void call_everything(void)
{
    char *text = NULL;
    pve_tunnel_codec *codec = NULL;
    int32_t opcode = 0;
    bool end = false;
    uint8_t *payload = NULL;
    size_t length = 0;
    int fd = -1;
    uint16_t port = 0;

    CHECK_OK(pve_tunnel_codec_new("{\"role\":\"server\"}", &codec));
    CHECK_OK(pve_tunnel_codec_feed(codec, (const uint8_t *)"\xff\xff", 2));
    CHECK_STATUS(pve_tunnel_codec_next(codec, &opcode, &end, &payload, &length), PVE_TUNNEL_STATUS_PROTOCOL);
    pve_tunnel_codec_free(codec);
    CHECK_STATUS(pve_tunnel_plan("{\"migration_type\":\"insecure\"}", &text), PVE_TUNNEL_STATUS_REFUSED);
    CHECK_STATUS(pve_tunnel_version_reply_parse("?", &text), PVE_TUNNEL_STATUS_PROTOCOL);
    CHECK_STATUS(pve_tunnel_configuration_select("?", "{\"side\":\"target\",\"migration_type\":\"secure\"}", &text),
                 PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_network_address("240.0.0.0/24", "node", &text), PVE_TUNNEL_STATUS_REFUSED);
    CHECK_STATUS(pve_tunnel_port_bind("240.0.0.1", &fd, &port), PVE_TUNNEL_STATUS_IO);
    CHECK_STATUS(pve_tunnel_endpoint_check("{}", &text), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_guard_check("{\"address\":\"127.0.0.1\"}", &text), PVE_TUNNEL_STATUS_REFUSED);
    CHECK_OK(pve_tunnel_fingerprint_parse("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", &text));
    pve_tunnel_string_free(text);

    int input[2], output[2];
    CHECK(pipe(input) == 0 && pipe(output) == 0);
    CHECK(write(input[1], "{broken\n", 8) == 8);
    CHECK(close(input[1]) == 0);
    CHECK_OK(pve_tunnel_connector_run(input[0], output[1], -1, NULL));
    CHECK(close(input[0]) == 0 && close(output[0]) == 0 && close(output[1]) == 0);
}

int main(void)
{
    struct sigaction before[SIGNALS + 1], after;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(sigaction(SIGTERM, &action, NULL) == 0);
    for (int number = 1; number <= SIGNALS; number++)
        CHECK(sigaction(number, NULL, &before[number]) == 0);

    /* During the calls, standard output and standard error go into one pipe. */
    int printed[2];
    int output = dup(STDOUT_FILENO), error = dup(STDERR_FILENO);
    CHECK(pipe(printed) == 0 && output >= 0 && error >= 0);
    CHECK(dup2(printed[1], STDOUT_FILENO) >= 0 && dup2(printed[1], STDERR_FILENO) >= 0);
    CHECK(close(printed[1]) == 0);
    call_everything();
    CHECK(dup2(output, STDOUT_FILENO) >= 0 && dup2(error, STDERR_FILENO) >= 0);
    CHECK(close(output) == 0 && close(error) == 0);

    char text[256];
    ssize_t length = read(printed[0], text, sizeof text);
    if (length > 0)
        fprintf(stderr, "printed: %.*s\n", (int)length, text);
    CHECK(length == 0);
    CHECK(close(printed[0]) == 0);

    for (int number = 1; number <= SIGNALS; number++) {
        CHECK(sigaction(number, NULL, &after) == 0);
        CHECK(after.sa_handler == before[number].sa_handler);
        CHECK(after.sa_flags == before[number].sa_flags);
    }
    return 0;
}
