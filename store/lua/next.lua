-- Issues a version to somebody who needs no lease: a person who brings a refresh token.
-- KEYS: 1 token, 2 mark, 3 grant
-- Reply: {'issued', version}
return { 'issued', issue(KEYS[2], read_mark(KEYS[2]), version(raw_field(KEYS[1], 'version')),
  version(raw_field(KEYS[3], 'version')), version(raw_field(KEYS[3], 'taken'))) }
