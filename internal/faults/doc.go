// Package faults holds the tests of onetoken under real faults: replicas as processes of their own, a redis-server, a
// token endpoint, and at each step of a refresh a process killed or stopped, a Redis paused or restarted empty, a
// connection cut, half-closed, delayed or fallen silent. It has no code but tests.
//
// The program has no failpoints: each replica reaches Redis and the endpoint through a proxy of its own (package
// faultproxy), which recognises the step. What every replica handed out, what the endpoint was asked, what Redis granted
// and stored and what was done to whom is one history, which is checked after each case; a history that breaks a rule is
// printed.
package faults
