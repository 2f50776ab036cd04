package manager

import (
	"errors"
	"testing"
	"time"
)

// What failed long ago says nothing of a call that is made now, nor since when Redis is away.
func TestAnOldFailureSparesNoCall(t *testing.T) {
	t.Parallel()
	var calls trials
	reset := errors.New("connection reset by peer")
	calls.failed(time.Second, time.Second, reset)
	if err := calls.spare(2*time.Second, true, false); err != nil {
		t.Errorf("the first trial: %v", err)
	}
	if err := calls.spare(2*time.Second+trialEvery/2, true, false); !errors.Is(err, reset) {
		t.Errorf("right after it: %v", err)
	}
	late := time.Second + evidenceLasts
	calls.next.Store(int64(late + time.Hour))
	if err := calls.spare(late, true, false); err != nil {
		t.Errorf("after %v: %v", late, err)
	}
	calls.failed(late, late, reset)
	if since := calls.row.Load().since; since != late {
		t.Errorf("the row begins at %v, not at %v", since, late)
	}
}
