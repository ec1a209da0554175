-- Changes nothing that is read: a write that moves the connection on to where WAIT has to wait for.
-- KEYS: meta.  ARGV: version to come.
-- Returns {'CONFIRMED', version}, {'COLD'} or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
redis.call('HSET', KEYS[1], 'seen', ARGV[1])
return {'CONFIRMED', m[1]}
