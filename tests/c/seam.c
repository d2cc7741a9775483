/* The worker's seam: a request and what the worker knows in, an action out; a line of the listener in, a checked answer
 * out. */

#include <string.h>

#include "check.h"

#define OPEN "\"direct\":{\"op\":\"open\",\"protocol\":1,\"plane\":\"tcp\",\"network\":\"dc2\"}"
#define KNOWN "\"file\":\"/f\",\"node\":\"pve7\""

static void decided(const char *text, const char *input, const char *expected)
{
    char *out = NULL;
    CHECK_OK(pve_tunnel_seam_decide(text, input, &out));
    if (strcmp(out, expected) != 0)
        fprintf(stderr, "decided: %s\nexpected: %s\n", out, expected);
    CHECK(strcmp(out, expected) == 0);
    pve_tunnel_string_free(out);
}

static void not_decided(const char *text, const char *input, int32_t status, const char *reason)
{
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_seam_decide(text, input, &out), status);
    CHECK(out == NULL);
    if (strstr(pve_tunnel_last_error(), reason) == NULL)
        fprintf(stderr, "message: %s\nlacks: %s\n", pve_tunnel_last_error(), reason);
    CHECK(strstr(pve_tunnel_last_error(), reason) != NULL);
}

static void not_answered(const char *operation, const char *answer, int32_t status, const char *reason)
{
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_seam_answer(operation, answer, &out), status);
    CHECK(out == NULL);
    CHECK(strstr(pve_tunnel_last_error(), reason) != NULL);
}

static void each_request_has_an_action(void)
{
    const char *text = "network: dc2\n\tsource 10.9.0.0/24\n\tallow insecure\n";
    decided(NULL, "{" OPEN "," KNOWN ",\"listener\":\"ended\"}",
            "{\"do\":\"check\",\"path\":\"/\",\"privilege\":\"Sys.Modify\"}");
    decided(text, "{" OPEN "," KNOWN ",\"listener\":\"ended\"}",
            "{\"do\":\"listen\",\"options\":{\"buffer\":\"auto\",\"congestion\":\"auto\",\"dead_peer_timeout\":60.0,"
            "\"fingerprint\":null,\"hello_timeout\":10,\"network\":\"10.9.0.0/24\",\"node\":\"pve7\",\"plane\":\"tcp\",\"protocol\":1,"
            "\"public\":false,\"threads\":null,\"user\":null}}");
    decided(NULL, "{\"direct\":{\"op\":\"forward\",\"path\":\"/a\"}," KNOWN ",\"listener\":\"running\",\"sockets\":[\"/a\"]}",
            "{\"do\":\"ask\",\"request\":{\"op\":\"forward\",\"path\":\"/a\"}}");
    decided(NULL, "{\"direct\":{\"op\":\"close\"}," KNOWN ",\"listener\":\"running\"}", "{\"do\":\"close\"}");
}

static void refusals_and_malformed_input_are_errors(void)
{
    not_decided(NULL, "{" OPEN "," KNOWN ",\"listener\":\"none\",\"allowed\":false}", PVE_TUNNEL_STATUS_REFUSED,
                "lacks Sys.Modify on '/'");
    not_decided("?", "{" OPEN "," KNOWN ",\"listener\":\"none\"}", PVE_TUNNEL_STATUS_REFUSED, "/f, line 1: ");
    not_decided("# \xff", "{" OPEN "," KNOWN ",\"listener\":\"none\"}", PVE_TUNNEL_STATUS_REFUSED, "UTF-8");
    not_decided(NULL, "{\"direct\":[]," KNOWN ",\"listener\":\"none\"}", PVE_TUNNEL_STATUS_PROTOCOL, "'direct'");
    not_decided(NULL, "{" OPEN "," KNOWN ",\"listener\":\"none\",\"more\":1}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "more");
    not_decided(NULL, "{" OPEN "," KNOWN "}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "listener");
    not_decided(NULL, "[]", PVE_TUNNEL_STATUS_INVALID_ARGUMENT, "object");
    not_decided(NULL, "\xff", PVE_TUNNEL_STATUS_NOT_UTF8, "input");
}

static void answers_are_checked(void)
{
    char *out = NULL;
    CHECK_OK(pve_tunnel_seam_answer("forward", "{\"number\":1,\"more\":{}}\n", &out));
    CHECK(strcmp(out, "{\"number\":1}") == 0);
    pve_tunnel_string_free(out);
    not_answered("forward", "{\"number\":0}", PVE_TUNNEL_STATUS_PROTOCOL, "'number' is malformed");
    not_answered("open", "{\"plane\":\"tcp\"}", PVE_TUNNEL_STATUS_PROTOCOL, "is missing");
    not_answered("stat", "", PVE_TUNNEL_STATUS_PROTOCOL, "not an object");
    not_answered("\xff", "{}", PVE_TUNNEL_STATUS_NOT_UTF8, "operation");
    not_answered("stat", "\xff", PVE_TUNNEL_STATUS_NOT_UTF8, "answer");
}

int main(void)
{
    each_request_has_an_action();
    refusals_and_malformed_input_are_errors();
    answers_are_checked();
    CHECK(PVE_TUNNEL_CONFIGURATION_MAX == 1048576 && PVE_TUNNEL_LINE_MAX == 1048576);
    return 0;
}
