package top

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/onetoken/onetoken/manager"
)

// Plain is a view for programs and pipes.
type Plain struct {
	Print   func(rows []manager.Status, now time.Time) error // prints all rows
	Changes bool                                             // print only when more than a TTL has changed, not after each read
	Trouble func(error)                                      // is told when reading begins to fail, and with nil when it works again
}

// Show prints what r reads until ctx is done, which is no error. Errors: that of the first read, and Print's.
func (p Plain) Show(ctx context.Context, r *Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var last []*Row
	var err error
	printed, failing := false, false
	r.Run(ctx, func(s Snapshot) {
		switch {
		case err != nil: // we are leaving
		case s.Problem != nil && !printed:
			err = s.Problem
		case (s.Problem != nil) != failing:
			failing = !failing
			p.Trouble(s.Problem)
		}
		if err == nil && s.Problem == nil && s.Complete && (!printed || !p.same(last, s.Rows)) {
			last, printed = s.Rows, true
			now := time.Now()
			err = p.Print(statuses(s.Rows, now), now)
		}
		if err != nil {
			cancel()
		}
	})
	return err
}

// same reports whether there is nothing new in b.
func (p Plain) same(a, b []*Row) bool {
	if !p.Changes {
		return slices.Equal(a, b) // each read makes new rows
	}
	return slices.EqualFunc(a, b, func(a, b *Row) bool { return a == b || reflect.DeepEqual(still(a.Status), still(b.Status)) })
}

// still is s without what runs down by itself.
func still(s manager.Status) manager.Status {
	s.TTL, s.Lock.TTL, s.ReadAt = 0, 0, time.Time{}
	return s
}

// statuses are the rows as they are now.
func statuses(rows []*Row, now time.Time) []manager.Status {
	list := make([]manager.Status, len(rows))
	for i, row := range rows {
		list[i] = row.Status
		list[i].TTL = manager.Milliseconds(row.left(now))
		list[i].Lock.TTL = manager.Milliseconds(row.leaseLeft(now))
	}
	return list
}
