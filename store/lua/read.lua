-- Reads all there is of an environment in one step; and, for one who would go on to fetch a token where there is nothing, no
-- token, failure, grant or lock, takes the lease and issues a version in the same step (claim.lua). Else it changes nothing.
-- KEYS: 1 token, 2 mark, 3 failure, 4 lock, 5 grant    ARGV: none, or 1 the lease's lock value, 2 its TTL (ms)
-- token_fields, failure_fields and grant_fields stand before it: never the grant's refresh token, which only the one who
-- is about to use it gets
-- Reply: 1 and 2 Redis's clock (s, µs), 3 to 5 the marks issued, stored, dropped, 6 the lock's PTTL (-2: there is none), 7 its value
--        ('' where it is no string), 8 the failure's PTTL, 9 the failure, 10 the grant's PTTL, 11 the grant, 12 the version, where
--        one was issued (lock and marks are as they were before), 13 the token's PTTL, from 14 on the token
--        A hash is a value for each name (nil where the field is missing), another type is its name alone, a missing key nil, of the
--        token nothing. What most have is flat: each list within is more work for Redis.
-- All replicas of a fleet run this at the same moment. So what only a claim needs is made after this, and there is no command about
-- what most of the time isn't there but the PTTL that says so.
local function hash(key, ...)
  local values, t = of_type('hash', 'HMGET', key, ...)
  return values or { t }
end

local clock, mark = redis.call('TIME'), raw_mark(KEYS[2])
local token_ttl, lock_ttl = redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[4])
local failure_ttl, grant_ttl = redis.call('PTTL', KEYS[3]), redis.call('PTTL', KEYS[5])
local holder = lock_ttl ~= -2 and of_type('string', 'GET', KEYS[4]) or ''
-- A lock with this value was taken by this very command, which a client that lost the reply sends once more, or which comes
-- twice. It isn't touched: whoever has it may have renewed it.
local own = ARGV[1] and holder == ARGV[1]
if own then lock_ttl, holder = -2, '' end
if not (ARGV[1] and token_ttl == -2 and failure_ttl == -2 and lock_ttl == -2 and grant_ttl == -2) then
  local token = token_ttl == -2 and {} or hash(KEYS[1], token_fields())
  return {
    clock[1], clock[2], mark[1], mark[2], mark[3], lock_ttl, holder,
    failure_ttl, failure_ttl ~= -2 and hash(KEYS[3], failure_fields()),
    grant_ttl, grant_ttl ~= -2 and hash(KEYS[5], grant_fields()),
    false, token_ttl, unpack(token)
  }
end
