-- Stores a token: compares, writes, expires and publishes in one step.
-- KEYS: 1 token, 2 mark, 3 failure
-- ARGV: 1 version, 2 Redis's clock when the version was issued (µs), 3 life (ms), 4 channel, 5 environment,
--       6 … further fields and values
-- Reply: {'stored', PTTL (ms)}, also for the same version again; {'older', stored}; {'dropped', dropped};
--        {'expired'}: the life was over on arrival. All but the first have written nothing.
local v = version(ARGV[1])
local m = read_mark(KEYS[2])
-- The token's own version counts, too: the mark may have been evicted.
m.stored = math.max(m.stored, version(raw_field(KEYS[1], 'version')))
if v <= m.dropped then return { 'dropped', digits(m.dropped) } end
if v < m.stored then return { 'older', digits(m.stored) } end
if v == m.stored and raw_field(KEYS[1], 'version') == ARGV[1] then
  local ttl = redis.call('PTTL', KEYS[1])
  if ttl > 0 then return { 'stored', ttl } end
end
local issued_at = math.min(tonumber(ARGV[2]), now)
local expires_at = issued_at + tonumber(ARGV[3]) * 1000
-- In whole milliseconds, as PEXPIREAT counts: it would delete a key whose end is in the current one.
if math.floor(expires_at / 1000) <= math.floor(now / 1000) then return { 'expired' } end
m.stored = v
m.issued = math.max(m.issued, v)
write_mark(KEYS[2], m)
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'issued_at', rfc3339(issued_at), 'expires_at', rfc3339(expires_at),
  unpack(ARGV, 6))
redis.call('PEXPIREAT', KEYS[1], digits(math.floor(expires_at / 1000)))
publish(ARGV[4], ARGV[5], 'stored', v)
return { 'stored', redis.call('PTTL', KEYS[1]) }
