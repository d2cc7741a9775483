/* NULL in place of a required pointer is an error that names the argument. NULL is accepted where it means "none". */

#include <string.h>

#include "check.h"

#define CHECK_NULL(call, argument)                                      \
    do {                                                                \
        CHECK_STATUS(call, PVE_TUNNEL_STATUS_NULL_POINTER);             \
        CHECK(strstr(pve_tunnel_last_error(), argument " is NULL"));    \
    } while (0)

int main(void)
{
    uint8_t byte = 7;
    const uint8_t key[4] = {1, 2, 3, 4};
    char *text = NULL;
    uint8_t *bytes = NULL;
    size_t length = 0;
    int32_t opcode = 0;
    bool end = false;
    int fd = -1;
    uint16_t port = 0;
    pve_tunnel_codec *codec = NULL;

    pve_tunnel_string_free(NULL);
    pve_tunnel_bytes_free(NULL, 0);
    pve_tunnel_bytes_free(NULL, 10);
    pve_tunnel_codec_free(NULL);

    CHECK_NULL(pve_tunnel_mask(NULL, 1, key, 0), "data");
    CHECK_NULL(pve_tunnel_mask(&byte, 1, NULL, 0), "key");
    CHECK_NULL(pve_tunnel_mask(NULL, 0, NULL, 0), "key");
    CHECK_OK(pve_tunnel_mask(NULL, 0, key, 0));
    CHECK(byte == 7);

    CHECK_NULL(pve_tunnel_codec_new(NULL, NULL), "out");
    CHECK_NULL(pve_tunnel_codec_feed(NULL, &byte, 1), "codec");
    CHECK_NULL(pve_tunnel_codec_next(NULL, &opcode, &end, &bytes, &length), "codec");
    CHECK_NULL(pve_tunnel_codec_encode(NULL, 2, &byte, 1, &bytes, &length), "codec");

    CHECK_OK(pve_tunnel_codec_new(NULL, &codec));
    CHECK_NULL(pve_tunnel_codec_feed(codec, NULL, 1), "data");
    CHECK_OK(pve_tunnel_codec_feed(codec, NULL, 0));
    CHECK_NULL(pve_tunnel_codec_next(codec, NULL, &end, &bytes, &length), "opcode");
    CHECK_NULL(pve_tunnel_codec_next(codec, &opcode, NULL, &bytes, &length), "end");
    CHECK_NULL(pve_tunnel_codec_next(codec, &opcode, &end, NULL, &length), "payload");
    CHECK_NULL(pve_tunnel_codec_next(codec, &opcode, &end, &bytes, NULL), "len");
    CHECK_NULL(pve_tunnel_codec_encode(codec, 2, NULL, 1, &bytes, &length), "data");
    CHECK_NULL(pve_tunnel_codec_encode(codec, 2, &byte, 1, NULL, &length), "out");
    CHECK_NULL(pve_tunnel_codec_encode(codec, 2, &byte, 1, &bytes, NULL), "out_len");
    CHECK_OK(pve_tunnel_codec_encode(codec, 2, NULL, 0, &bytes, &length));
    pve_tunnel_bytes_free(bytes, length);
    pve_tunnel_codec_free(codec);

    CHECK_NULL(pve_tunnel_fingerprint_parse(NULL, &text), "text");
    CHECK_NULL(pve_tunnel_fingerprint_parse("", NULL), "canonical");
    CHECK_NULL(pve_tunnel_version_reply_parse(NULL, &text), "json");
    CHECK_NULL(pve_tunnel_version_reply_parse("{}", NULL), "out");
    CHECK_NULL(pve_tunnel_plan(NULL, &text), "input");
    CHECK_NULL(pve_tunnel_plan("{}", NULL), "out");
    CHECK_NULL(pve_tunnel_configuration_select(NULL, NULL, &text), "input");
    CHECK_NULL(pve_tunnel_configuration_select("", "{}", NULL), "out");
    CHECK_NULL(pve_tunnel_seam_decide(NULL, NULL, &text), "input");
    CHECK_NULL(pve_tunnel_seam_decide("", "{}", NULL), "out");
    CHECK_NULL(pve_tunnel_seam_answer(NULL, "{}", &text), "operation");
    CHECK_NULL(pve_tunnel_seam_answer("stat", NULL, &text), "answer");
    CHECK_NULL(pve_tunnel_seam_answer("stat", "{}", NULL), "out");
    CHECK_NULL(pve_tunnel_network_address(NULL, NULL, &text), "node_name");
    CHECK_NULL(pve_tunnel_network_address("10.0.0.0/24", "node", NULL), "out");
    CHECK_NULL(pve_tunnel_port_bind(NULL, &fd, &port), "address");
    CHECK_NULL(pve_tunnel_port_bind("127.0.0.1", NULL, &port), "fd");
    CHECK_NULL(pve_tunnel_port_bind("127.0.0.1", &fd, NULL), "port");
    CHECK_NULL(pve_tunnel_endpoint_check(NULL, &text), "input");
    CHECK_NULL(pve_tunnel_endpoint_check("{}", NULL), "out");
    CHECK_NULL(pve_tunnel_guard_check(NULL, &text), "input");
    CHECK_NULL(pve_tunnel_guard_check("{}", NULL), "out");

    CHECK(text == NULL && fd == -1 && port == 0);
    return 0;
}
