#!lua flags=allow-oom
-- Says whether an object is a session's, or may become one.
-- KEYS: meta.  ARGV: version to come, the object's name, ms after which a freeze has come to nothing.
-- Returns {'LIVE'}, {'YOUNG', ms until it is judged} or {'DEAD'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold')
if m[2] == ARGV[2] then return {'LIVE'} end
local now = redis.call('TIME')
local begun = tonumber(string.match(ARGV[2], '-(%d+)-%x+%.%a+$'))
local left = begun + ARGV[3] - (now[1] * 1000 + math.floor(now[2] / 1000))
if left > 0 then return {'YOUNG', left} end
-- What is deleted on the word of this answer must not be named again after a failover: it is acknowledged.
if m[1] then redis.call('HSET', KEYS[1], 'seen', ARGV[1]) end
return {'DEAD'}
