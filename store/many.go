package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
		read, err := s.readChunk(ctx, chunk)
		if err != nil {
			return nil, err
		}
		records = append(records, read...)
	}
	return records, nil
}

// readChunk reads environments in one pipeline. What it fails for alone, the script that a server doesn't know yet or a slot
// that has moved, is read once more by itself.
func (s *Store) readChunk(ctx context.Context, envs []string) ([]*Record, error) {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	replies := make([]*redis.Cmd, len(envs))
	_, failed := s.rdb.Pipelined(limited, func(p redis.Pipeliner) error {
		for i, env := range envs {
			replies[i] = readScript.EvalSha(limited, p, s.Keys(env).read(), readArgs...)
		}
		return nil
	})
	if failed != nil {
		s.lookForMaster(ctx, failed)
	}
	records := make([]*Record, len(envs))
	for i, env := range envs {
		reply, err := replies[i].Slice()
		if _, answered := errors.AsType[redis.Error](err); answered {
			if records[i], err = s.Read(ctx, env); err != nil {
				return nil, err
			}
			continue
		}
		if err == nil && len(reply) < readReply {
			err = fmt.Errorf("a reply of %d elements instead of %d", len(reply), readReply)
		}
		if err != nil {
			return nil, &StatusError{Op: "read", Key: s.Keys(env).Token, Err: err}
		}
		records[i] = s.decode(env, reply)
	}
	return records, nil
}
