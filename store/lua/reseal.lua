-- Puts a value that was sealed anew in the place of the one that it was opened from; TTL and version stay, nobody is told.
-- KEYS: 1 token or grant
-- ARGV: 1 field, 2 what it holds, 3 version, 4 what it is to hold
-- Reply: {'resealed'}; {'changed'}: field or version is another by now, and nothing was written.
if raw_field(KEYS[1], ARGV[1]) ~= ARGV[2] or raw_field(KEYS[1], 'version') ~= ARGV[3] then return { 'changed' } end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
return { 'resealed' }
