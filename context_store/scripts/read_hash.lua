-- Reads fields of one of a session's hashes. Changes nothing.
-- KEYS: meta, hash.  ARGV: incarnation that the session must have or '', then the fields.
-- Returns {links or '', {value or false, …}}, or {'COLD'}. A session of another incarnation has none of them.
local m = redis.call('HMGET', KEYS[1], 'cold', 'links', 'incarnation', 'version')
if ARGV[1] ~= '' and (m[3] ~= ARGV[1] or not m[4]) then
  local none = {}
  for i = 2, #ARGV do none[i - 1] = false end
  return {'', none}
end
if m[1] then return {'COLD'} end
return {m[2] or '', redis.call('HMGET', KEYS[2], unpack(ARGV, 2))}
