-- What every script shares; it is put before each of them.
-- Redis's clock, in microseconds since the epoch: a double holds that exactly until the year 2255.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- A version is 1 to 16 digits and at most 24 hours ahead of Redis's clock; anything else counts as 0.
local function version(raw)
  if raw and #raw <= 16 and string.find(raw, '^%d+$') then
    local n = tonumber(raw)
    if n <= now + 86400000000 then return n end
  end
  return 0
end

-- A number as digits: tostring would write 1.7e+15.
local function digits(n) return string.format('%.0f', n) end

local function type_of(key)
  local t = redis.call('TYPE', key)
  return t.ok or t
end

-- One field of a hash, as it is; '' where the key or the field is missing, or the key is no hash.
local function raw_field(key, field)
  if type_of(key) ~= 'hash' then return '' end
  return redis.call('HGET', key, field) or ''
end

-- What a command about a key of the type brings; nil and its type where the key is something else. That is asked for only
-- after a refusal, which, if it has another reason, is the script's.
local function of_type(want, command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  local t = type_of(key)
  if t == want then return redis.call(command, key, ...) end
  return nil, t
end

-- The marks: the last version issued, the highest stored, the highest dropped.
local function read_mark(key)
  local m = of_type('hash', 'HMGET', key, 'issued', 'stored', 'dropped') or {}
  return { issued = version(m[1]), stored = version(m[2]), dropped = version(m[3]) }
end

-- Writes all marks, so that an implausible one is mended by whoever writes next.
local function write_mark(key, m)
  if type_of(key) ~= 'hash' then redis.call('DEL', key) end
  redis.call('HSET', key, 'issued', digits(m.issued), 'stored', digits(m.stored), 'dropped', digits(m.dropped))
  redis.call('PERSIST', key)
end

-- Last in a script, and never its failure: a user without rights to the channel has its write all the same.
local function publish(channel, env, kind, v)
  redis.pcall('PUBLISH', channel,
    '{"env":"' .. env .. '","kind":"' .. kind .. '","version":' .. digits(v) .. '}')
end

-- Microseconds since the epoch as RFC 3339 in UTC with milliseconds (days to date after Howard Hinnant's
-- days_from_civil, turned round).
local function rfc3339(us)
  local ms = math.floor(us / 1000)
  local day = math.floor(ms / 86400000)
  local rest = ms - day * 86400000
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local d = doy - math.floor((153 * mp + 2) / 5) + 1
  local m = mp + 3
  if m > 12 then m = m - 12 end
  local y = yoe + era * 400
  if m <= 2 then y = y + 1 end
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', y, m, d, math.floor(rest / 3600000),
    math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end
