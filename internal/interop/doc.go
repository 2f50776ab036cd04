// Package interop holds tests with programs that nobody here wrote.
//
// There are OAuth clients in other languages, which share the fleet's token by changing their token URL to the agent's. And
// there are authorization servers, which give the fleet its tokens, by every grant and every way to authenticate that they
// know: oidc-provider (npm) and zitadel/oidc (the module zitadel/, which a test builds). Each is first asked by hand: a test
// of ours that succeeds means something only where the server refuses what is wrong.
//
// What they need besides Go (node and npm, Debian's python3 with its packages, curl, redis-server) is not in go.mod: a test
// is skipped where it is missing, and fails with ONETOKEN_REQUIRE_PROGRAMS=1.
package interop
