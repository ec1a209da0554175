#!lua flags=allow-oom
-- Lets a session's keys go, once an object holds them. What is left of meta is what lists and fences need.
-- KEYS: meta, objects, then the keys that leave Valkey.
-- ARGV: version to come, version that the object has, its name, idle for at least so many ms, ms that a freeze may
--   take, the session's sums, then the fields of meta that the object has.
-- Returns {'FROZEN', version}, {'STALE'}, {'COLD'} for another object, or {'MISSING'}.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'touched_ms', 'thawed_ms')
if not m[1] then return {'MISSING'} end
if m[2] == ARGV[3] then
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'FROZEN', m[1]}
end
if m[2] then return {'COLD'} end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
-- A freeze that was suspended for too long may find its object deleted, as one that nobody names.
local begun = tonumber(string.match(ARGV[3], '-(%d+)-%x+%.%a+$'))
if m[1] ~= ARGV[2] or m[3] ~= '0' or now > begun + ARGV[5] or redis.call('SISMEMBER', KEYS[2], ARGV[3]) == 0
  or math.max(tonumber(m[4]) or 0, tonumber(m[5]) or 0) + ARGV[4] > now then
  return {'STALE'}
end
redis.call('UNLINK', unpack(KEYS, 3))
-- Meta names it from now on.
redis.call('SREM', KEYS[2], ARGV[3])
redis.call('HDEL', meta, 'thawed_ms', 'seen', unpack(ARGV, 7))
-- Written anew, so that it is as small as what is left: a hash never goes back to its compact form by itself.
local left = redis.call('HGETALL', meta)
redis.call('DEL', meta)
redis.call('HSET', meta, unpack(left))
-- No copy can be brought up from here: the version's lineage begins anew.
redis.call('HSET', meta, 'version', ARGV[1], 'cold', ARGV[3], 'sums', ARGV[6])
return {'FROZEN', ARGV[1]}
