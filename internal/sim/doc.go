// Package sim runs whole fleets in virtual time, with faults, from a seed. It consists of tests.
//
// The managers are the real ones, and so are the scripts, the lock and the client; what is a model is the way to Redis, Redis
// itself and the token endpoint. Each of their operations stops at a gate. When nothing in the bubble of testing/synctest
// can run any more, the seed decides what becomes of the operations that have arrived (when they get there, whether they do,
// whether their answer comes back, or twice), and then the next thing that is due happens: one, until nothing can run again.
// So the order of all that touches another replica is the seed's, and the same seed gives the same run.
//
// A run that breaks a rule is made smaller, by leaving out the faults that it doesn't need, and shown as a trace. To look at
// one again: go test ./internal/sim -run EveryRule -first SEED -seeds 1 -logs -trail 200.
package sim
