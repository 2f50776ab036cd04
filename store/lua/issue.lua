-- Issues the version of one attempt, under the lease; and gives it the refresh token, where one is to be used.
-- KEYS: 1 token, 2 mark, 3 failure, 4 lock, 5 grant
-- ARGV: 1 this attempt's lock value, 2 and 3 the raw versions of token and failure that the caller saw;
--       where a refresh token is to be used: 4 the grant's state that it saw, 5 for how long others leave it alone (ms)
-- Reply: {'issued', version, Redis's clock (µs), sealed refresh token or '', its version as it stands there},
--        {'lost'}: the lock holds another value, {'changed'}: token, failure or grant are others than those seen,
--        {'unreadable'}: the grant is no hash. All but the first have written nothing.
-- Run twice, it issues twice: a version that nobody uses does no harm.
if type_of(KEYS[4]) ~= 'string' or redis.call('GET', KEYS[4]) ~= ARGV[1] then return { 'lost' } end
if raw_field(KEYS[1], 'version') ~= ARGV[2] or raw_field(KEYS[3], 'version') ~= ARGV[3] then return { 'changed' } end
local taken = 0
if ARGV[4] then
  local t = type_of(KEYS[5])
  if t ~= 'hash' and t ~= 'none' then return { 'unreadable' } end
  -- What was taken by this very lease is no change: a lost reply has the script run again.
  if grant_state(KEYS[5]) ~= ARGV[4] and raw_field(KEYS[5], 'taken_by') ~= ARGV[1] then return { 'changed' } end
  taken = version(raw_field(KEYS[5], 'taken'))
end
local v = issue(KEYS[2], read_mark(KEYS[2]), taken, version(raw_field(KEYS[5], 'version')), version(raw_field(KEYS[1], 'version')))
if not ARGV[4] then return { 'issued', v, digits(now) } end
redis.call('HSET', KEYS[5], 'taken', v, 'taken_by', ARGV[1], 'taken_until', rfc3339(now + tonumber(ARGV[5]) * 1000))
return { 'issued', v, digits(now), raw_field(KEYS[5], 'refresh_token'), raw_field(KEYS[5], 'version') }
