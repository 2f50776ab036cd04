package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// readsAtOnce is how many environments are read in one round trip.
const readsAtOnce = 256

// ReadMany is [Store.Read] for many environments, a few hundred in each round trip: the records are in the order of envs.
// Each is read in one step, but not all of them in one. Errors: a *[StatusError], after which nothing is returned, or one
// that wraps [ErrName].
func (s *Store) ReadMany(ctx context.Context, envs []string) ([]*Record, error) {
	for _, env := range envs {
		if err := CheckName(env); err != nil {
			return nil, fmt.Errorf("store: environment: %w", err)
		}
	}
	records := make([]*Record, 0, len(envs))
	for chunk := range slices.Chunk(envs, readsAtOnce) {
		var failed error
		s.ReadEach(ctx, chunk, func(_ int, r *Record, _ time.Time, err error) {
			records, failed = append(records, r), cmp.Or(failed, err)
		})
		if failed != nil {
			return nil, failed
		}
	}
	return records, nil
}

// ReadEach is [Store.Read] for a few hundred environments at most, in one round trip, or two where a server has lost the
// script; f is called with what became of each, in their order, and an instant just before the request that brought it. What fails for
// one alone, a slot that is moving, is read once more by itself.
func (s *Store) ReadEach(ctx context.Context, envs []string, f func(i int, r *Record, sent time.Time, err error)) {
	sent := time.Now()
	if len(envs) == 1 {
		r, err := s.Read(ctx, envs[0])
		f(0, r, sent, err)
		return
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	replies, failed := s.pipeline(limited, envs)
	if isNoScript(failed) {
		s.known.forget()
		sent = time.Now()
		replies, failed = s.pipeline(limited, envs)
	}
	if failed != nil {
		s.unreachable(ctx, failed)
	}
	for i, env := range envs {
		reply, err := replies[i].Slice()
		if _, answered := errors.AsType[redis.Error](err); answered {
			asked := time.Now()
			r, err := s.Read(ctx, env)
			f(i, r, asked, err)
			continue
		}
		r, err := s.decodeOne(env, reply, err)
		f(i, r, sent, err)
	}
}

func (s *Store) decodeOne(env string, reply []any, err error) (*Record, error) {
	if err == nil && len(reply) < readReply {
		err = fmt.Errorf("a reply of %d elements instead of %d", len(reply), readReply)
	}
	if err != nil {
		return nil, &StatusError{Op: "read", Key: s.Keys(env).Token, Err: err}
	}
	return s.decode(env, reply), nil
}

// pipeline reads environments in one round trip. The first on each server that isn't known to have the script brings it.
func (s *Store) pipeline(ctx context.Context, envs []string) (replies []*redis.Cmd, failed error) {
	replies = make([]*redis.Cmd, len(envs))
	brought := map[place]bool{}
	_, failed = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, env := range envs {
			keys := s.Keys(env).read()
			run, at := readScript.EvalSha, s.place(ctx, readScript, keys[0])
			if !s.known.has(at) && !brought[at] {
				run, brought[at] = readScript.Eval, true
			}
			replies[i] = run(ctx, p, keys)
		}
		return nil
	})
	if failed == nil {
		for at := range brought {
			s.known.add(at)
		}
	}
	return replies, failed
}
