-- Replaces a session's own fields if they are still those that were read.
-- KEYS: meta.  ARGV: version to come, etag that was read, new etag, own (Session proto).
-- Returns {'UPDATED', version}, {'STALE'} or {'MISSING'}.
local etag = redis.call('HGET', KEYS[1], 'etag')
if not etag then return {'MISSING'} end
if etag == ARGV[3] then return {'UPDATED', redis.call('HGET', KEYS[1], 'version')} end
if etag ~= ARGV[2] then return {'STALE'} end
redis.call('HSET', KEYS[1], 'own', ARGV[4], 'etag', ARGV[3])
redis.call('HSET', KEYS[1], 'version', ARGV[1])
return {'UPDATED', ARGV[1]}
