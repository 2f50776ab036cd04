-- Records the failure of one attempt, for everyone.
-- KEYS: 1 mark, 2 failure, 3 token, 4 grant
-- ARGV: 1 version, 2 backoff (ms), 3 how long it is remembered after that (ms), 4 channel, 5 environment,
--       6 '1' where it must not replace a failure with another code whose backoff is running, 7 code,
--       8 '' or, where a refresh token was used, 'used', or 'refused' where it is no good any more; 9 the version of the
--       grant that it stood in, 10 the label of a configured one; 11 … further fields and values
-- Reply: {'failed', retry_at (RFC 3339), Redis's clock (µs)}, also for the same version again;
--        {'older'}: a newer token or failure is there, or one that must not be replaced; {'changed'}: another refresh token
--        stands in the grant. Nothing was written of the failure.
-- Whether readers can read s as a time: rfc3339's form, and a day and hour that exist.
local function is_time(s)
  local y, mo, d, h, mi, sec = string.match(s or '', '^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)%.%d%d%dZ$')
  if not y then return false end
  y, mo, d = tonumber(y), tonumber(mo), tonumber(d)
  local days = ({ 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 })[mo]
  if mo == 2 and (y % 4 == 0 and y % 100 ~= 0 or y % 400 == 0) then days = 29 end
  return days and d >= 1 and d <= days and tonumber(h) < 24 and tonumber(mi) < 60 and tonumber(sec) < 60
end

local v = version(ARGV[1])
if ARGV[8] ~= '' and type_of(KEYS[4]) == 'hash' then
  settle_grant(KEYS[4], v)
  if ARGV[8] == 'refused' then
    local g = redis.call('HMGET', KEYS[4], 'version', 'seed')
    redis.call('HSET', KEYS[4], 'seed', with_label(g[2] or '', ARGV[10]))
    -- What was refused is not what is there: a configured one, or somebody has brought another meanwhile.
    if (g[1] or '') ~= ARGV[9] or ARGV[10] ~= '' and (g[1] or '') ~= '' then return { 'changed' } end
    redis.call('HSET', KEYS[4], 'refused', digits(v), 'reason', ARGV[7])
  end
end
local m = read_mark(KEYS[1])
-- The token's own version counts, too: the mark may have been evicted.
m.stored = math.max(m.stored, version(raw_field(KEYS[3], 'version')))
if v == 0 or v <= m.stored then return { 'older' } end
if type_of(KEYS[2]) == 'hash' and redis.call('PTTL', KEYS[2]) > 0 then
  local f = redis.call('HMGET', KEYS[2], 'version', 'code', 'retry_at', 'failed_at')
  local there = version(f[1])
  if v == there then return { 'failed', f[3] or '', digits(now) } end
  -- One above all that was issued was planted, and doesn't keep ours out.
  if v < there and there <= m.issued then return { 'older' } end
  -- RFC 3339 in UTC sorts as text. One that no reader can read binds nobody, and doesn't keep ours out.
  local running = there > 0 and f[2] and string.find(f[2], '[!-~]') and is_time(f[4]) and is_time(f[3]) and f[3] > rfc3339(now)
  if ARGV[6] == '1' and running and f[2] ~= ARGV[7] then return { 'older' } end
end
local backoff = tonumber(ARGV[2]) * 1000
local retry_at = rfc3339(now + backoff)
-- Also because DEL needs no memory: where there is none, Redis lets a script that has begun to write go on.
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'version', ARGV[1], 'code', ARGV[7], 'failed_at', rfc3339(now), 'retry_at', retry_at,
  unpack(ARGV, 11))
redis.call('PEXPIRE', KEYS[2], digits(tonumber(ARGV[2]) + tonumber(ARGV[3])))
publish(ARGV[4], ARGV[5], 'failed', v)
return { 'failed', retry_at, digits(now) }
