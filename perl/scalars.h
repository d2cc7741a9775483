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

/* The rule: all Perl code of all arguments first, then pointers.
 *
 * Reading an argument may run Perl code: FETCH of a tied scalar, an overloaded conversion, and other
 * magic. Such code may change, reallocate or free every argument of the call, also those that were
 * read before. So a function reads its arguments in three steps:
 *
 *   1. FETCH(&a, &b, ...) runs the magic of all arguments.
 *   2. STRINGS(&a, ...) runs the overloaded conversions of those that are strings.
 *   3. The functions below (byte_string, c_string, descriptor) take values and pointers. They run no
 *      Perl code. Nothing that may run Perl code stands between them and the call of the library.
 *
 * After step 1 the argument is a private copy if it has magic, otherwise the caller's scalar. Perl
 * code of a later argument may still assign to that scalar, and step 3 then takes the new value or
 * refuses it. It cannot free the scalar: step 1 keeps all arguments until the caller's statement
 * ends. A scalar without magic costs nothing and is not copied. */
#define FETCH(...) FOR_ARGUMENTS(fetch_arguments, __VA_ARGS__)
#define STRINGS(...) FOR_ARGUMENTS(convert_arguments, __VA_ARGS__)
#define FOR_ARGUMENTS(function, ...)                                                              \
    function(aTHX_(SV **[]) { __VA_ARGS__ }, sizeof((SV **[]) { __VA_ARGS__ }) / sizeof(SV **))

/* Whether reading a scalar runs magic. Taint is magic as well, but runs no Perl code. */
static bool
has_magic(SV *sv)
{
    const MAGIC *mg;

    if (SvGMAGICAL(sv))
        for (mg = SvMAGIC(sv); mg; mg = mg->mg_moremagic)
            if (mg->mg_type != PERL_MAGIC_taint && mg->mg_virtual && mg->mg_virtual->svt_get)
                return true;
    return false;
}

static bool
is_overloaded(SV *sv)
{
    return SvROK(sv) && SvAMAGIC(sv);
}

/* Keeps a scalar until the caller's statement ends. Arguments on Perl's stack are not counted. */
static void
keep(pTHX_ SV *sv)
{
    SvREFCNT_inc_simple_void_NN(sv);
    sv_2mortal(sv);
}

static void
taint_like(pTHX_ SV *sv, bool tainted)
{
    if (tainted)
        SvTAINTED_on(sv);
    else
        SvTAINTED_off(sv); /* another value in the caller's statement may have tainted it */
}

/* Step 1. An argument that was not given is NULL. */
static void
fetch_arguments(pTHX_ SV **arguments[], size_t count)
{
    bool code = false;

    for (size_t i = 0; i < count; i++) {
        SV *sv = *arguments[i];
        code = code || (sv && (has_magic(sv) || is_overloaded(sv)));
    }
    if (!code)
        return;

    for (size_t i = 0; i < count; i++)
        if (*arguments[i])
            keep(aTHX_ *arguments[i]);
    for (size_t i = 0; i < count; i++) {
        SV *sv = *arguments[i];
        SV *copy;
        if (!sv || !has_magic(sv))
            continue;
        SvGETMAGIC(sv);
        copy = sv_newmortal();
        sv_setsv_nomg(copy, sv);
        taint_like(aTHX_ copy, SvTAINTED(sv));
        *arguments[i] = copy;
    }
}

/* Step 2. The result of a conversion is tainted if the conversion used a tainted value. */
static void
convert_arguments(pTHX_ SV **arguments[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        SV *sv = *arguments[i];
        const char *bytes;
        STRLEN len;
        bool tainted;
        if (!sv || !is_overloaded(sv))
            continue;
        tainted = SvTAINTED(sv);
        sv = sv_mortalcopy(sv); /* of the reference: the conversion sets flags in it */
        TAINT_NOT;
        bytes = SvPV_nomg_const(sv, len);
        tainted = tainted || TAINT_get;
        *arguments[i] = newSVpvn_flags(bytes, len, SVs_TEMP | (SvUTF8(sv) ? SVf_UTF8 : 0));
        taint_like(aTHX_ *arguments[i], tainted);
    }
}

/* `what` in the messages below is `pve_tunnel_<function>: <argument>`. Like the library's messages,
 * they begin with the name of the function.
 *
 * The bytes of a scalar after step 2, which is not changed. Characters above 255 are refused.
 * Characters from 128 to 255 stand for that byte, however Perl stores them. */
static const char *
byte_string(pTHX_ SV *sv, STRLEN *len, const char *what)
{
    const char *bytes;
    SV *copy;

    if (!SvOK(sv))
        croak("%s is undefined\n", what);
    if (SvROK(sv))
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

/* The same for an argument that may be undef: NULL then. */
static const char *
optional_c_string(pTHX_ SV *sv, const char *what)
{
    return SvOK(sv) ? c_string(aTHX_ sv, what) : NULL;
}

/* A descriptor number, after step 1. Handles are refused: the numeric value of a handle's name is 0, standard
 * input. */
static int
descriptor(pTHX_ SV *sv, const char *what)
{
    IV number;

    if (!SvOK(sv) || SvROK(sv) || !looks_like_number(sv))
        croak("%s is not a file descriptor number\n", what);
    number = SvIV_nomg(sv);
    if (number < 0 || number > INT_MAX)
        croak("%s is not a file descriptor number: %" IVdf "\n", what, number);
    return (int)number;
}

/* The same for an argument that may be undef: -1 then. */
static int
optional_descriptor(pTHX_ SV *sv, const char *what)
{
    return SvOK(sv) ? descriptor(aTHX_ sv, what) : -1;
}

/* ------------------------------------------------------------------------------------ output -- */

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

/* Methods of tied containers inside a structure run while the functions below walk through it. They
 * may remove containers, so each container is kept while its elements are visited. */

/* Whether any value inside a structure is tainted. */
static bool
any_tainted(pTHX_ SV *sv, int depth)
{
    if (SvTAINTED(sv))
        return true;
    if (!SvROK(sv) || depth >= MAX_DEPTH)
        return false;

    sv = SvRV(sv);
    keep(aTHX_ sv);
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
    keep(aTHX_ sv);
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
