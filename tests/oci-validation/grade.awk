# Grades the standard output of a validation program. Prints "pass", or "fail: " and the reason.
# Variables: status is the program's exit status; silent is 1 for a program that prints no test point if it succeeds.
function fail(reason) { if (why == "") why = reason }
/^TAP version/                      { next }
/^1\.\.[0-9]+/                      { plans++; planned += substr($1, 4) }
/^ok([ \t]|$)/                      { points++ }
/^not ok([ \t]|$)/                  { points++; if ($0 !~ /# *TODO/) { failed++; if (first == "") first = $0 } }
silent && /^ +"error": /            { error = $0; sub(/^ +"error": /, "", error) }
END {
    if (status == 124 || status == 137) fail("it exceeded its time limit")
    else if (status != 0)               fail("exit status " status)
    if (failed)                         fail(failed " of " points " points: " first)
    if (error != "")                    fail(error)
    if (!silent && !points)             fail("no test point")
    if (!silent && !plans)              fail("no plan")
    if (plans && planned != points)     fail(planned " points planned, " points " seen")
    print why == "" ? "pass" : "fail: " why
}
