-- Begins a session that nobody sees before its import has ended.
-- KEYS: meta.  ARGV: incarnation, own (Session proto), etag, ms after which an import without progress has died.
-- Returns {'BEGUN'}, or {'EXISTS'} and {'HIDDEN', incarnation, '1' or '0'} as create_session does.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'incarnation', 'version', 'erasing')
if m[1] and m[1] ~= ARGV[1] then
  if m[2] then return {'EXISTS'} end
  return {'HIDDEN', m[1], m[3] and '1' or '0'}
end
local now = redis.call('TIME')
redis.call('HSET', meta, 'own', ARGV[2], 'etag', ARGV[3], 'incarnation', ARGV[1],
  'importing', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4]))
return {'BEGUN'}
