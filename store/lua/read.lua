-- Reads all there is of an environment in one step; writes nothing.
-- KEYS: 1 token, 2 mark, 3 failure, 4 lock, 5 grant
-- token_fields, failure_fields and grant_fields stand before it: never the grant's refresh token, which only the one who
-- is about to use it gets
-- Reply: 1 Redis's clock (µs), 2 the token, 3 its PTTL, 4 {issued, stored, dropped} as they are, 5 the failure, 6 its PTTL,
--        7 the lock's value ('' where it is no string), 8 its PTTL (-2: there is none), 9 the grant, 10 its PTTL
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

local mark = of_type('hash', 'HMGET', KEYS[2], 'issued', 'stored', 'dropped') or {}
local token_ttl, failure_ttl = redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[3])
local lock_ttl, grant_ttl = redis.call('PTTL', KEYS[4]), redis.call('PTTL', KEYS[5])
local holder = ''
if lock_ttl ~= -2 then holder = of_type('string', 'GET', KEYS[4]) or '' end
return {
  digits(now), fields(KEYS[1], token_ttl, token_fields), token_ttl,
  { mark[1], mark[2], mark[3] },
  fields(KEYS[3], failure_ttl, failure_fields), failure_ttl,
  holder, lock_ttl,
  fields(KEYS[5], grant_ttl, grant_fields), grant_ttl,
}
