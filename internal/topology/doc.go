// Package topology holds no code but tests: a fleet of managers under load on a real Sentinel deployment, on a real
// Cluster, as a user of few rights, and over TLS with client certificates, while masters die, hang and lose writes and
// slots move.
//
// What is asserted is what is promised; how long things take on the machine is logged.
package topology
