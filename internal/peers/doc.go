// Package peers runs others' ways to a shared access token, and ours, side by side on one machine. It is a module of its
// own: who uses onetoken doesn't inherit what it is compared with.
//
// Its benchmarks are of a token that is there ([Warm]). A [Herd] is many replicas that want their first token at once, by
// each of [Strategies]; a [Rotation] is callers that go on while tokens run out. What comes out is ratios on the machine
// at hand: replicas, Redis and the token endpoint share its cores.
package peers
