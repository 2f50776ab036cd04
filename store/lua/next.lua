-- Issues a version to somebody who needs no lease: a person who brings a refresh token.
-- KEYS: 1 token, 2 mark, 3 grant
-- Reply: {'issued', version}
local m = read_mark(KEYS[2])
m.issued = math.max(math.max(m.issued, m.stored, m.dropped, version(raw_field(KEYS[1], 'version')),
  version(raw_field(KEYS[3], 'version')), version(raw_field(KEYS[3], 'taken'))) + 1, now)
write_mark(KEYS[2], m)
return { 'issued', digits(m.issued) }
