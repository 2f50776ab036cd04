-- What the scripts about grants share; it is put before each of them, after common.lua.
-- A grant is a hash. 'version' is that of the write that brought its refresh token: '' where there is none. 'taken' is the
-- version of the attempt that uses it, until its outcome is known: '' where none does. 'refused' is the version of the
-- attempt that was told it is no good any more, or of the logout. 'adopted' is that of the last write of a person's. Fields are
-- emptied rather than deleted.

-- What must not have changed since a reader decided by it.
local function grant_state(key)
  local g = redis.call('HMGET', key, 'version', 'taken', 'refused', 'seed')
  return (g[1] or '') .. '|' .. (g[2] or '') .. '|' .. (g[3] or '') .. '|' .. (g[4] or '')
end

-- The labels of the configured refresh tokens that were used, the latest first, with one more: at most 8 are remembered.
local function with_label(list, label)
  if label == '' then return list end
  local labels = { label }
  for l in string.gmatch(list, '[^,]+') do
    if l ~= label and #labels < 8 then labels[#labels + 1] = l end
  end
  return table.concat(labels, ',')
end

-- The use of the refresh token by attempt v is over.
local function settle_grant(key, v)
  if type_of(key) == 'hash' and version(redis.call('HGET', key, 'taken')) <= v then
    redis.call('HSET', key, 'taken', '', 'taken_by', '', 'taken_until', '')
  end
end

-- Writes the refresh token that attempt v brought, sealed; nothing where a newer one is there, or a key of another type. life
-- is that of the refresh token in ms, 0 for none, '' for what it was. Returns 'kept' or 'older'.
local function keep_grant(key, v, sealed, client, label, life)
  local t = type_of(key)
  if t ~= 'hash' and t ~= 'none' then return 'unreadable' end
  local g = redis.call('HMGET', key, 'version', 'seed')
  if version(g[1]) > v then
    redis.call('HSET', key, 'seed', with_label(g[2] or '', label)) -- it was used, though nothing came of it
    settle_grant(key, v)
    return 'older'
  end
  if version(g[1]) < v then
    redis.call('HSET', key, 'refresh_token', sealed, 'version', digits(v), 'obtained_at', rfc3339(now), 'client', client,
      'seed', with_label(g[2] or '', label), 'refused', '', 'reason', '')
    if life == '0' then
      redis.call('PERSIST', key)
    elseif life ~= '' then
      redis.call('PEXPIREAT', key, digits(math.floor(now / 1000) + tonumber(life)))
    end
  end
  settle_grant(key, v)
  return 'kept'
end
