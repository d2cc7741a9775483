/*
 * Conversions between Perl scalars and the library's values: errors, byte strings, descriptors and
 * taint. They do not depend on a certain function.
 *
 * Part of Native.xs, which includes it after Perl's headers and pve_tunnel.h.
 */
#ifndef PVE_TUNNEL_SCALARS_H
#define PVE_TUNNEL_SCALARS_H

/* No input or answer of the library is deeper. The limit of the JSON modules is 512 as well. */
#define MAX_DEPTH 512

/* ------------------------------------------------------------------------------------ errors -- */

/* Dies with the library's message if the call failed. Handlers of signals that arrived during the
 * call run first: the exception of a handler that dies, as PVE's time limits do, then arrives inside
 * the caller's eval and not after it. */
static void
check(pTHX_ const char *function, int32_t status)
{
    const char *message;
    SV *error;

    if (status == 0)
        return;

    message = pve_tunnel_last_error();
    if (message && *message)
        error = newSVpvf("%s\n", message);
    else
        error = newSVpvf("%s: failed with status %d\n", function, (int)status);
    sv_2mortal(error);

    PERL_ASYNC_CHECK();
    croak_sv(error);
}

/* ------------------------------------------------------------------------------------- input -- */

/* `what` in the messages below is `pve_tunnel_<function>: <argument>`. Like the library's messages,
 * they begin with the name of the function.
 *
 * The bytes of a scalar, which is not changed. Characters above 255 are refused. Characters from 128
 * to 255 stand for that byte, however Perl stores them. */
static const char *
byte_string(pTHX_ SV *sv, STRLEN *len, const char *what)
{
    const char *bytes;
    SV *copy;

    SvGETMAGIC(sv);
    if (!SvOK(sv))
        croak("%s is undefined\n", what);
    if (SvROK(sv) && !SvAMAGIC(sv))
        croak("%s is a reference, not a byte string\n", what);

    bytes = SvPV_nomg_const(sv, *len);
    if (!SvUTF8(sv))
        return bytes;

    copy = newSVpvn_flags(bytes, *len, SVf_UTF8 | SVs_TEMP);
    if (!sv_utf8_downgrade(copy, TRUE))
        croak("%s contains wide characters, not bytes; encode it first\n", what);
    return SvPV_nomg_const(copy, *len);
}

/* The same for arguments that end at their first NUL in C. */
static const char *
c_string(pTHX_ SV *sv, const char *what)
{
    STRLEN len;
    const char *bytes = byte_string(aTHX_ sv, &len, what);

    if (memchr(bytes, 0, len))
        croak("%s contains a NUL byte\n", what);
    return bytes;
}

/* A descriptor number. Handles are refused: the numeric value of a handle's name is 0, standard
 * input. */
static int
descriptor(pTHX_ SV *sv, const char *what)
{
    IV number;

    SvGETMAGIC(sv);
    if (!SvOK(sv) || SvROK(sv) || !looks_like_number(sv))
        croak("%s is not a file descriptor number\n", what);
    number = SvIV_nomg(sv);
    if (number < 0 || number > INT_MAX)
        croak("%s is not a file descriptor number: %" IVdf "\n", what, number);
    return (int)number;
}

/* ------------------------------------------------------------------------------------ output -- */

static void
taint_like(pTHX_ SV *sv, bool tainted)
{
    if (tainted)
        SvTAINTED_on(sv);
    else
        SvTAINTED_off(sv); /* another value in the caller's statement may have tainted it */
}

/* Converts and frees a string of the library. */
static SV *
text_from(pTHX_ char *text, bool tainted)
{
    SV *sv = newSVpv(text, 0);

    pve_tunnel_string_free(text);
    taint_like(aTHX_ sv, tainted);
    return sv;
}

/* Converts and frees bytes of the library. NULL stands for no bytes. */
static SV *
bytes_from(pTHX_ uint8_t *bytes, size_t len, bool tainted)
{
    SV *sv = len ? newSVpvn((const char *)bytes, len) : newSVpvs("");

    if (bytes)
        pve_tunnel_bytes_free(bytes, len);
    taint_like(aTHX_ sv, tainted);
    return sv;
}

/* ------------------------------------------------------------------------------------- taint -- */

/* Whether any value inside a structure is tainted. */
static bool
any_tainted(pTHX_ SV *sv, int depth)
{
    if (SvTAINTED(sv))
        return true;
    if (!SvROK(sv) || depth >= MAX_DEPTH)
        return false;

    sv = SvRV(sv);
    if (SvTYPE(sv) == SVt_PVAV) {
        SSize_t last = av_len((AV *)sv);
        for (SSize_t i = 0; i <= last; i++) {
            SV **element = av_fetch((AV *)sv, i, 0);
            if (element && any_tainted(aTHX_ *element, depth + 1))
                return true;
        }
    } else if (SvTYPE(sv) == SVt_PVHV) {
        HE *entry;
        bool found = false;
        hv_iterinit((HV *)sv);
        while ((entry = hv_iternext((HV *)sv))) /* reaching the end resets the iterator */
            found = found || any_tainted(aTHX_ hv_iterval((HV *)sv, entry), depth + 1);
        return found;
    }
    return false;
}

/* Taints every value inside a structure that was just decoded. */
static void
taint_all(pTHX_ SV *sv, int depth)
{
    if (!SvROK(sv)) {
        if (!SvREADONLY(sv))
            SvTAINTED_on(sv);
        return;
    }
    if (depth >= MAX_DEPTH)
        return;

    sv = SvRV(sv);
    if (SvTYPE(sv) == SVt_PVAV) {
        SSize_t last = av_len((AV *)sv);
        for (SSize_t i = 0; i <= last; i++) {
            SV **element = av_fetch((AV *)sv, i, 0);
            if (element)
                taint_all(aTHX_ *element, depth + 1);
        }
    } else if (SvTYPE(sv) == SVt_PVHV) {
        HE *entry;
        hv_iterinit((HV *)sv);
        while ((entry = hv_iternext((HV *)sv)))
            taint_all(aTHX_ hv_iterval((HV *)sv, entry), depth + 1);
    }
}

#endif
