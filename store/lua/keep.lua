-- Writes the refresh token that an attempt brought, without its access token, which could not be used; or that nobody uses it.
-- KEYS: 1 grant
-- ARGV: 1 version; then, where there is a refresh token to be kept: 2 sealed, 3 client, 4 label, 5 life (see keep_grant)
-- Reply: {'kept'}, {'older'}, {'unreadable'}, {'settled'}
local v = version(ARGV[1])
if ARGV[2] then return { keep_grant(KEYS[1], v, ARGV[2], ARGV[3], ARGV[4], ARGV[5]) } end
settle_grant(KEYS[1], v)
return { 'settled' }
