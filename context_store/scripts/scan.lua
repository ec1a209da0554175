-- Reads a page of one of a session's hashes or sets. Changes nothing.
-- KEYS: meta, hash or set.  ARGV: HSCAN or SSCAN, cursor, about how many, incarnation that the session must have or ''.
-- Returns {cursor, flat list of fields and values, or members}, or {'COLD'}. A session of another incarnation has none.
local m = redis.call('HMGET', KEYS[1], 'cold', 'incarnation', 'version')
if ARGV[4] ~= '' and (m[2] ~= ARGV[4] or not m[3]) then return {'0', {}} end
if m[1] then return {'COLD'} end
return redis.call(ARGV[1], KEYS[2], ARGV[2], 'COUNT', ARGV[3])
