/* Version replies and plans: what design's table says, as JSON in and JSON out. */

#include <string.h>

#include "check.h"

static char *reply(const char *line)
{
    char *out = NULL;
    CHECK_OK(pve_tunnel_version_reply_parse(line, &out));
    CHECK(out != NULL);
    return out;
}

static void reply_refused(const char *line, int32_t status, const char *reason)
{
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_version_reply_parse(line, &out), status);
    CHECK(out == NULL);
    CHECK(strstr(pve_tunnel_last_error(), reason) != NULL);
}

static void planned(const char *input, const char *expected[])
{
    char *out = NULL;
    CHECK_OK(pve_tunnel_plan(input, &out));
    for (; *expected != NULL; expected++) {
        if (strstr(out, *expected) == NULL)
            fprintf(stderr, "plan: %s\nlacks: %s\n", out, *expected);
        CHECK(strstr(out, *expected) != NULL);
    }
    pve_tunnel_string_free(out);
}

static void not_planned(const char *input, int32_t status, const char *reason)
{
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_plan(input, &out), status);
    CHECK(out == NULL);
    if (strstr(pve_tunnel_last_error(), reason) == NULL)
        fprintf(stderr, "message: %s\nlacks: %s\n", pve_tunnel_last_error(), reason);
    CHECK(strstr(pve_tunnel_last_error(), reason) != NULL);
}

int main(void)
{
    /* An old target names no capabilities; a new one may name some that this library has not heard of. */
    char *text = reply("{\"success\":1,\"api\":2,\"age\":0}");
    CHECK(strcmp(text, "{\"api\":2,\"age\":0,\"caps\":[],\"unknown\":[]}") == 0);
    pve_tunnel_string_free(text);
    text = reply("{\"api\":2,\"age\":0,\"caps\":[\"x-y\",\"insecure-remote\"],\"later\":true}");
    CHECK(strcmp(text, "{\"api\":2,\"age\":0,\"caps\":[\"insecure-remote\"],\"unknown\":[\"x-y\"]}") == 0);
    pve_tunnel_string_free(text);

    reply_refused("not JSON", PVE_TUNNEL_STATUS_PROTOCOL, "not JSON");
    reply_refused("{\"api\":9,\"age\":0}", PVE_TUNNEL_STATUS_REFUSED, "upgrade this node");

    planned("{\"migration_type\":\"insecure\",\"migration_network\":\"10.0.0.0/24\",\"caps\":[\"insecure-remote\"],"
            "\"planes\":[\"websocket\",\"qemu\"],\"require_encryption\":false,\"dial\":null}",
            (const char *[]){"\"plane\":\"qemu\"", "\"offline\":\"websocket\"", "\"network\":\"10.0.0.0/24\"",
                             "\"statefile\":\"tcp\",\"type\":\"insecure\"",
                             "{\"path\":\"/\",\"privilege\":\"Sys.Modify\",\"on\":[\"source\",\"target\"]}", NULL});

    /* Clear text to an old target: refused, with both ways out. */
    not_planned("{\"migration_type\":\"insecure\",\"caps\":[],\"planes\":[\"qemu\"]}", PVE_TUNNEL_STATUS_REFUSED,
                "upgrade the target node, or omit migration_type=insecure");
    not_planned("{\"caps\":[\"No Name\"]}", PVE_TUNNEL_STATUS_PROTOCOL, "No Name");
    not_planned("[\"insecure\"]", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "object");
    not_planned("{\"require_encription\":true}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "require_encription");
    return 0;
}
