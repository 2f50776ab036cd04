// Package interop holds tests with programs that nobody here wrote: OAuth clients in other languages, which share the
// fleet's token by changing their token URL to the agent's. What they need besides Go (node and npm, Debian's python3 with
// its packages, curl) is not in go.mod: a test is skipped where it is missing, and fails with ONETOKEN_REQUIRE_PROGRAMS=1.
package interop
