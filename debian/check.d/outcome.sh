# shellcheck shell=bash disable=SC2154 # what is used and not set here, debian/check.d/suite sets
# What became of each check. Uses: log, results, suite.

# Exit code of a check that cannot be done here.
readonly SKIPPED=77
# Lines of its output that are shown for a check that failed.
readonly SHOWN=40

declare -A outcome_of=()

# check NAME NEEDS FUNCTION...
#
# Runs it as a program with errexit, its output in the log, and says in a line how it went. What it writes to
# descriptor 3 is said there, too. One whose NEEDS did not go well is skipped.
check() {
    local name=$1 needs=$2 started=$SECONDS output outcome said
    shift 2
    output=$(mktemp)
    if [ -n "$needs" ] && [ "${outcome_of[$needs]-}" != ok ]; then
        outcome=skipped
        said="$needs did not go well"
    else
        # As a simple command: errexit counts for nothing where an exit code is asked for at once.
        (
            set -e
            "$@"
        ) >"$output" 2>&1 3>"$output.said"
        case $? in
            0) outcome=ok ;;
            "$SKIPPED") outcome=skipped ;;
            *) outcome=FAILED ;;
        esac
        said=$(paste -s -d ' ' "$output.said")
    fi
    outcome_of[$name]=$outcome
    printf '%s\t%s\t%d\t%s\n' "$outcome" "$name" $((SECONDS - started)) "$said" >>"$results"
    printf '%-8s %s: %s%s\n' "$outcome" "$suite" "$name" "${said:+ ($said)}"
    {
        printf '==== %s: %s\n' "$name" "$outcome"
        cat "$output"
    } >>"$log"
    [ "$outcome" != FAILED ] || tail -n "$SHOWN" "$output" | sed 's/^/    /'
    rm -f "$output" "$output.said"
}

say() {
    printf '%s\n' "$*" >&3
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

skip() {
    say "$*"
    exit "$SKIPPED"
}

# Nothing failed, and nothing was skipped because of it.
all_well() {
    ! grep -q '^FAILED' "$results"
}
