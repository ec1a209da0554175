-- Erases every key of a session.
-- KEYS: meta, then all others.  ARGV: etag that must match, or ''.
-- Returns {'DELETED'}, {'ETAG'} or {'MISSING'}.
local etag = redis.call('HGET', KEYS[1], 'etag')
if not etag then return {'MISSING'} end
if ARGV[1] ~= '' and etag ~= ARGV[1] then return {'ETAG'} end
redis.call('UNLINK', unpack(KEYS))
return {'DELETED'}
