// Package e2e holds the tests of onetoken as its users run it: the built commands as processes of their own, a
// redis-server, a token endpoint over HTTP, and signals. It has no code but tests.
//
// Each test has a Redis, an endpoint and a configuration of its own (a site), and ends what it has started by its pid.
// What any process wrote is searched for secrets at the end of its test.
//
// Waits have a deadline and a reason. A bound that a test names is one that users are promised; all else is counted and
// ordered rather than timed, so that a busy machine makes no test fail.
package e2e
