-- Replaces a session's own fields if they are still those that were read.
-- KEYS: meta.  ARGV: version to come, etag that was read, new etag, own (Session proto), its ttl in ms or 0.
-- Returns {'UPDATED', version}, {'STALE'} or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'etag')
local etag = m[2]
if not m[1] then return {'MISSING'} end
if etag == ARGV[3] then
  redis.call('HSET', KEYS[1], 'seen', ARGV[1])
  return {'UPDATED', m[1]}
end
if etag ~= ARGV[2] then return {'STALE'} end
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', KEYS[1], 'own', ARGV[4], 'etag', ARGV[3], 'version', version)
if ARGV[5] == '0' then redis.call('HDEL', KEYS[1], 'ttl_ms') else redis.call('HSET', KEYS[1], 'ttl_ms', ARGV[5]) end
return {'UPDATED', version}
