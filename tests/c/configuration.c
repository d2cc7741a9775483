/* Selection of the configured settings: the text of the file and the input of a call go in, the settings come out. The Rust
 * tests check the decisions and every error in a file. */

#include <string.h>

#include "check.h"

static const char *const FILE_TEXT = "network: dc2\n"
                                     "\tremote 192.0.2.7,pve.example.com\n"
                                     "\tsource 10.0.0.0/24\n"
                                     "\ttarget dc1\n"
                                     "\tallow secure,insecure\n"
                                     "\tdefault insecure\n"
                                     "\tdead-peer-timeout 30\n";

static void selected(const char *text, const char *input, const char *expected)
{
    char *out = NULL;
    CHECK_OK(pve_tunnel_configuration_select(text, input, &out));
    if (strcmp(out, expected) != 0)
        fprintf(stderr, "selected: %s\nexpected: %s\n", out, expected);
    CHECK(strcmp(out, expected) == 0);
    pve_tunnel_string_free(out);
}

static void refused(const char *text, const char *input, int32_t status, const char *reason)
{
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_configuration_select(text, input, &out), status);
    CHECK(out == NULL);
    if (strstr(pve_tunnel_last_error(), reason) == NULL)
        fprintf(stderr, "message: %s\nlacks: %s\n", pve_tunnel_last_error(), reason);
    CHECK(strstr(pve_tunnel_last_error(), reason) != NULL);
}

static void accepted_input(void)
{
    /* On the source: the network of the remote, in another spelling. */
    selected(FILE_TEXT, "{\"side\":\"source\",\"remote\":\"PVE.example.com.\"}",
             "{\"migration_type\":\"insecure\",\"migration_network\":\"dc2\",\"configured\":true,\"network\":\"dc1\","
             "\"source_network\":\"10.0.0.0/24\",\"require_encryption\":false,\"public\":false,\"gateway\":false,"
             "\"dead_peer_timeout\":30,\"congestion\":\"auto\",\"buffer\":\"auto\",\"lanes\":null,\"threads\":null,"
             "\"compression\":\"none\","
             "\"reason\":\"network 'dc2' is configured for remote 'pve.example.com'\"}");
    /* On the target: an ID selects the network of this node. */
    selected(FILE_TEXT, "{\"side\":\"target\",\"migration_type\":\"secure\",\"migration_network\":\"dc2\"}",
             "{\"network\":\"10.0.0.0/24\",\"configured\":true,\"require_encryption\":false,\"public\":false,"
             "\"congestion\":\"auto\",\"buffer\":\"auto\",\"threads\":null,\"reason\":\"network 'dc2' was requested by its ID\"}");
    /* NULL instead of the text counts as an empty file. */
    const char *none = "{\"network\":null,\"configured\":false,\"require_encryption\":false,\"public\":false,"
                       "\"congestion\":\"auto\",\"buffer\":\"auto\",\"threads\":null,\"reason\":\"no network was requested\"}";
    selected(NULL, "{\"side\":\"target\",\"migration_type\":\"insecure\"}", none);
    selected("", "{\"side\":\"target\",\"migration_type\":\"insecure\",\"migration_network\":null}", none);
}

static void refused_input(void)
{
    const char *secure = "{\"side\":\"target\",\"migration_type\":\"secure\"}";
    refused("network: dc2\n\tfoo 1\n", secure, PVE_TUNNEL_STATUS_INVALID_ARGUMENT,
            "line 2: unknown key 'foo' in network 'dc2'");
    refused("# \xff\n", secure, PVE_TUNNEL_STATUS_NOT_UTF8, "line 1: is not UTF-8");
    refused("policy: cluster\n\trequire-encryption 1\n", "{\"side\":\"target\",\"migration_type\":\"insecure\"}",
            PVE_TUNNEL_STATUS_REFUSED, "requires encryption");
    refused(NULL, "{}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "side");
    refused(NULL, "[]", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "object");
    refused(NULL, "{\"side\":\"target\",\"migration_type\":\"\xff\"}", PVE_TUNNEL_STATUS_NOT_UTF8, "input");
}

static void the_length_of_the_file_is_limited(void)
{
    enum { LIMIT = 1 << 20, LINE = 64 };
    const char *secure = "{\"side\":\"target\",\"migration_type\":\"secure\"}";
    char *text = malloc(LIMIT + 2);
    CHECK(text != NULL);
    memset(text, '#', LIMIT + 1);
    for (int at = LINE - 1; at < LIMIT; at += LINE)
        text[at] = '\n';
    text[LIMIT] = '\0';
    char *out = NULL;
    CHECK_OK(pve_tunnel_configuration_select(text, secure, &out));
    pve_tunnel_string_free(out);
    text[LIMIT] = '#';
    text[LIMIT + 1] = '\0';
    refused(text, secure, PVE_TUNNEL_STATUS_TOO_LONG, "1048576");
    free(text);
}

int main(void)
{
    accepted_input();
    refused_input();
    the_length_of_the_file_is_limited();
    return 0;
}
