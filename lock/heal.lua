-- Who holds a lock, and for how long. One without TTL, which would be held for ever, or with one that no lease of ours can
-- have, gets one.
-- KEYS: 1 lock    ARGV: 1 TTL (ms) for such a lock, 2 the longest lease (ms)
-- Reply: {value ('' where it is no string), PTTL (-2: there is none)}
local ttl = redis.call('PTTL', KEYS[1])
if ttl == -1 or ttl > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local t = redis.call('TYPE', KEYS[1])
local value = ''
if (t.ok or t) == 'string' then value = redis.call('GET', KEYS[1]) end
return { value, redis.call('PTTL', KEYS[1]) }
