-- Stores a token, and the grant that came with it: compares, writes, expires and publishes in one step.
-- KEYS: 1 token, 2 mark, 3 failure, 4 grant
-- ARGV: 1 version, 2 Redis's clock when the version was issued (µs), 3 life (ms), 4 channel, 5 environment,
--       6 the number of further arguments of the token, then these: fields and values; then, where a refresh token was
--       used, that which is good from now on: sealed, client, label of a configured one that was used, life (see keep_grant)
-- Reply: {'stored', PTTL (ms)}, also for the same version again; {'older', stored}; {'dropped', dropped};
--        {'expired'}: the life was over on arrival. All but the first have written nothing of the token.
--        Further down stands what became of the grant: 'kept', 'older', 'unreadable', '' where there was none.
local v = version(ARGV[1])
local last = 6 + tonumber(ARGV[6])
local grant = ''
if ARGV[last + 1] then grant = keep_grant(KEYS[4], v, ARGV[last + 1], ARGV[last + 2], ARGV[last + 3], ARGV[last + 4]) end
local m = read_mark(KEYS[2])
-- The token's own version counts, too: the mark may have been evicted.
m.stored = math.max(m.stored, version(raw_field(KEYS[1], 'version')))
if v <= m.dropped then return { 'dropped', digits(m.dropped), grant } end
if v < m.stored then return { 'older', digits(m.stored), grant } end
if v == m.stored and raw_field(KEYS[1], 'version') == ARGV[1] then
  local ttl = redis.call('PTTL', KEYS[1])
  if ttl > 0 then return { 'stored', ttl, grant } end
end
local issued_at = math.min(tonumber(ARGV[2]), now)
local expires_at = issued_at + tonumber(ARGV[3]) * 1000
-- In whole milliseconds, as PEXPIREAT counts: it would delete a key whose end is in the current one.
if math.floor(expires_at / 1000) <= math.floor(now / 1000) then return { 'expired', '', grant } end
m.stored = v
m.issued = math.max(m.issued, v)
write_mark(KEYS[2], m)
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'issued_at', rfc3339(issued_at), 'expires_at', rfc3339(expires_at),
  unpack(ARGV, 7, last))
redis.call('PEXPIREAT', KEYS[1], digits(math.floor(expires_at / 1000)))
publish(ARGV[4], ARGV[5], 'stored', v)
return { 'stored', redis.call('PTTL', KEYS[1]), grant }
