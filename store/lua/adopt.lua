-- Makes a person's refresh token the grant, or ends the grant; and drops what was issued before.
-- KEYS: 1 token, 2 mark, 3 failure, 4 grant
-- ARGV: 1 version, 2 channel, 3 environment, 4 label of the configured refresh token, which is not to be used after this,
--       5 'adopt' or 'forget'; to adopt: 6 sealed, 7 client, 8 life (see keep_grant)
-- Reply: {'done', the highest version dropped}, also for the same version again;
--        {'older'}: an attempt with a later version uses the old one or has brought another. Nothing was written.
local v = version(ARGV[1])
if type_of(KEYS[4]) ~= 'hash' then redis.call('DEL', KEYS[4]) end -- what isn't ours is replaced when a person says so
local g = redis.call('HMGET', KEYS[4], 'version', 'taken', 'seed', 'adopted')
-- The reply was lost, and the refresh token may have been used since: its successor must not be overwritten with it.
if ARGV[5] == 'adopt' and v ~= 0 and version(g[4]) == v then return { 'done', digits(read_mark(KEYS[2]).dropped) } end
if v == 0 or version(g[1]) > v or version(g[2]) > v then return { 'older' } end
if ARGV[5] == 'adopt' then
  -- Also where an implausible version stands there.
  if version(g[1]) ~= v then redis.call('HSET', KEYS[4], 'version', '') end
  keep_grant(KEYS[4], v, ARGV[6], ARGV[7], ARGV[4], ARGV[8])
  redis.call('HSET', KEYS[4], 'adopted', digits(v))
else
  redis.call('HSET', KEYS[4], 'refresh_token', '', 'version', digits(v), 'obtained_at', '', 'client', '', 'seed', with_label(g[3] or '', ARGV[4]),
    'taken', '', 'taken_by', '', 'taken_until', '', 'refused', digits(v), 'reason', 'logout')
  redis.call('PERSIST', KEYS[4])
end
local m = read_mark(KEYS[2])
m.dropped = math.max(m.dropped, v)
m.issued = math.max(m.issued, m.dropped)
write_mark(KEYS[2], m)
if type_of(KEYS[1]) ~= 'hash' or version(raw_field(KEYS[1], 'version')) <= m.dropped then redis.call('DEL', KEYS[1]) end
redis.call('DEL', KEYS[3])
publish(ARGV[2], ARGV[3], 'invalidated', m.dropped)
return { 'done', digits(m.dropped) }
