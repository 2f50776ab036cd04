-- Takes a lock that is free; else says who holds it, and for how long. One without TTL, which would be held for ever, or
-- with one that no lease of ours can have, gets one. May be run again: a client that lost the reply sends the command
-- once more, and finds its own value.
-- KEYS: 1 lock    ARGV: 1 the value, 2 the TTL (ms), 3 the longest lease (ms)
-- Reply: {'acquired'}, or {'busy', value ('' where it is no string), PTTL}
if redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') then return { 'acquired' } end
local ttl = redis.call('PTTL', KEYS[1])
if ttl == -1 or ttl > tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local t = redis.call('TYPE', KEYS[1])
local value = ''
if (t.ok or t) == 'string' then value = redis.call('GET', KEYS[1]) end
if value == ARGV[1] then return { 'acquired' } end
return { 'busy', value, redis.call('PTTL', KEYS[1]) }
