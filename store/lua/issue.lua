-- Issues the version of one attempt, under the lease.
-- KEYS: 1 token, 2 mark, 3 failure, 4 lock
-- ARGV: 1 this attempt's lock value, 2 and 3 the raw versions of token and failure that the caller saw
-- Reply: {'issued', version, Redis's clock (µs)}, {'lost'}: the lock holds another value,
--        {'changed'}: token or failure are others than those seen
-- Run twice, it issues twice: a version that nobody uses does no harm.
if type_of(KEYS[4]) ~= 'string' or redis.call('GET', KEYS[4]) ~= ARGV[1] then return { 'lost' } end
if raw_field(KEYS[1], 'version') ~= ARGV[2] or raw_field(KEYS[3], 'version') ~= ARGV[3] then return { 'changed' } end
local m = read_mark(KEYS[2])
-- The others are never above issued but where somebody planted them, or the mark was evicted: a version must be above all.
m.issued = math.max(math.max(m.issued, m.stored, m.dropped, version(raw_field(KEYS[1], 'version'))) + 1, now)
write_mark(KEYS[2], m)
return { 'issued', digits(m.issued), digits(now) }
