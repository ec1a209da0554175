#!lua flags=allow-oom
-- Notes that a session may own an object, before there is one.
-- KEYS: meta, objects.  ARGV: version to come, version of the session, the object's name.
-- Returns {'NOTED'} or {'STALE'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold')
if m[1] ~= ARGV[2] or m[2] then return {'STALE'} end
redis.call('HSET', KEYS[1], 'seen', ARGV[1])
redis.call('SADD', KEYS[2], ARGV[3])
return {'NOTED'}
