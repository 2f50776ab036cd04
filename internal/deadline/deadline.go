// Package deadline tells a caller's own end from a failure of what it called.
package deadline

import (
	"context"
	"time"
)

// Over reports whether ctx is done. A Redis client sets ctx's deadline on its connection, which notices it a moment before
// ctx does: that moment is waited for.
func Over(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}
