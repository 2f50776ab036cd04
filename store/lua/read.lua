-- Reads all there is of an environment in one step; and, for one who would go on to fetch a token where there is nothing, no
-- token, failure, grant or lock, takes the lease and issues a version in the same step. Else it changes nothing.
-- KEYS: 1 token, 2 mark, 3 failure, 4 lock, 5 grant    ARGV: none, or 1 the lease's lock value, 2 its TTL (ms)
-- token_fields, failure_fields and grant_fields stand before it: never the grant's refresh token, which only the one who
-- is about to use it gets
-- Reply: 1 Redis's clock (µs), 2 the token, 3 its PTTL, 4 {issued, stored, dropped} as they are, 5 the failure, 6 its PTTL,
--        7 the lock's value ('' where it is no string), 8 its PTTL (-2: there is none), 9 the grant, 10 its PTTL,
--        11 the version, where one was issued; marks and lock are as they were before
--        A hash is {'hash', value …} (nil where a field is missing), a missing key {}, any other type {type}.
-- Most keys aren't there most of the time: a PTTL that says so is the one command about them. What is there has the type that
-- it should: that isn't asked for beforehand.
local function fields(key, ttl, names)
  if ttl == -2 then return {} end
  local values, t = of_type('hash', 'HMGET', key, unpack(names))
  if not values then return { t } end
  table.insert(values, 1, 'hash')
  return values
end

local mark = raw_mark(KEYS[2])
local token_ttl, failure_ttl = redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[3])
local lock_ttl, grant_ttl = redis.call('PTTL', KEYS[4]), redis.call('PTTL', KEYS[5])
local holder = ''
if lock_ttl ~= -2 then holder = of_type('string', 'GET', KEYS[4]) or '' end
-- A lock with this value was taken by this very command, which a client that lost the reply sends once more, or which comes
-- twice. It isn't touched: whoever has it may have renewed it.
local own = ARGV[1] and holder == ARGV[1]
if own then lock_ttl, holder = -2, '' end
local issued
if ARGV[1] and token_ttl == -2 and failure_ttl == -2 and lock_ttl == -2 and grant_ttl == -2
  and (own or not redis.pcall('SET', KEYS[4], ARGV[1], 'PX', ARGV[2]).err) then -- a Redis that takes no writes is read all the same
  issued = issue(KEYS[2], mark_of(mark))
end
return {
  digits(now), fields(KEYS[1], token_ttl, token_fields), token_ttl,
  { mark[1], mark[2], mark[3] },
  fields(KEYS[3], failure_ttl, failure_fields), failure_ttl,
  holder, lock_ttl,
  fields(KEYS[5], grant_ttl, grant_fields), grant_ttl,
  issued,
}
