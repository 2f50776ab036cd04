-- How keys are read that may hold something else; it is put before every script.
local function type_of(key)
  local t = redis.call('TYPE', key)
  return t.ok or t
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

-- The marks as they are: the last version issued, the highest stored, the highest dropped.
local function raw_mark(key) return of_type('hash', 'HMGET', key, 'issued', 'stored', 'dropped') or { false, false, false } end
