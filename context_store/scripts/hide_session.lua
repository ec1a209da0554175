#!lua flags=allow-oom
-- Hides a session from everybody, for it is erased from now on.
-- KEYS: meta.
-- ARGV: mark, incarnation that the session must have or '', etag that must match or '', touched_ms that must match or ''.
-- Returns {'HIDDEN', incarnation, links or '', own}, {'ETAG'}, {'TOUCHED'}, {'IMPORTING', ms left} for a session that is
-- not there yet, or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'erasing', 'etag', 'touched_ms', 'links', 'own',
  'importing')
if not m[1] or (ARGV[2] ~= '' and m[1] ~= ARGV[2]) then return {'MISSING'} end
if m[2] then
  if ARGV[3] ~= '' and ARGV[3] ~= m[4] then return {'ETAG'} end
  if ARGV[4] ~= '' and ARGV[4] ~= m[5] then return {'TOUCHED'} end
elseif not m[3] then
  local now = redis.call('TIME')
  local left = tonumber(m[8] or 0) - (now[1] * 1000 + math.floor(now[2] / 1000))
  if left > 0 and ARGV[2] == '' then return {'IMPORTING', left} end
end
redis.call('HDEL', KEYS[1], 'version')
redis.call('HSET', KEYS[1], 'erasing', ARGV[1])
return {'HIDDEN', m[1], m[6] or '', m[7] or ''}
