// Package opsdocs checks that the pages for operators (docs/operations.md, runbook.md, sizing.md, upgrading.md, leaks.md)
// are true: each command that they show is run against a real redis-server, which real managers have brought into the state
// that is described, and its answer compared with the one that is shown.
package opsdocs
