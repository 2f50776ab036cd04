-- The end of read.lua: there is nothing, and the caller would fetch a token. A Redis that takes no writes is read all the same.
local issued = (own or not redis.pcall('SET', KEYS[4], ARGV[1], 'PX', ARGV[2]).err) and issue(KEYS[2], mark_of(mark))
return { clock[1], clock[2], mark[1], mark[2], mark[3], -2, '', -2, false, -2, false, issued, -2 }
