-- Drops a version and all below it.
-- KEYS: 1 token, 2 mark
-- ARGV: 1 version, or '' for all that was issued so far, 2 channel, 3 environment
-- Reply: {'dropped', the highest version dropped} or {'implausible'}: no version that can exist; nothing was written
local m = read_mark(KEYS[2])
local v = version(ARGV[1])
if ARGV[1] == '' then
  -- Versions are at least Redis's clock when they were issued: 'now' covers those that Redis forgot (FLUSHALL).
  v = math.max(m.issued, m.stored, version(raw_field(KEYS[1], 'version')), now)
elseif v == 0 then
  return { 'implausible' }
end
m.dropped = math.max(m.dropped, v)
m.issued = math.max(m.issued, m.dropped)
write_mark(KEYS[2], m)
if type_of(KEYS[1]) ~= 'hash' or version(raw_field(KEYS[1], 'version')) <= m.dropped then redis.call('DEL', KEYS[1]) end
publish(ARGV[2], ARGV[3], 'invalidated', m.dropped)
return { 'dropped', digits(m.dropped) }
