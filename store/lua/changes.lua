-- What all scripts but the read share; it is put before each of them, after common.lua.

-- One field of a hash, as it is; '' where the key or the field is missing, or the key is no hash.
local function raw_field(key, field)
  if type_of(key) ~= 'hash' then return '' end
  return redis.call('HGET', key, field) or ''
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
