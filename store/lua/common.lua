-- What every script shares that writes; it is put before each of them, after keys.lua. The read has it, too, where it takes a lease.
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

local function mark_of(raw) return { issued = version(raw[1]), stored = version(raw[2]), dropped = version(raw[3]) } end

local function read_mark(key) return mark_of(raw_mark(key)) end

-- Writes all marks, so that an implausible one is mended by whoever writes next.
local function write_mark(key, m)
  if type_of(key) ~= 'hash' then redis.call('DEL', key) end
  redis.call('HSET', key, 'issued', digits(m.issued), 'stored', digits(m.stored), 'dropped', digits(m.dropped))
  redis.call('PERSIST', key)
end

-- Issues a version: above all marks, and others that somebody may have planted, or whose mark was evicted.
local function issue(key, m, ...)
  m.issued = math.max(math.max(m.issued, m.stored, m.dropped, ...) + 1, now)
  write_mark(key, m)
  return digits(m.issued)
end
