-- Makes a session warm whose keys are all back.
-- KEYS: meta, objects, then the keys that came back.
-- ARGV: version to come, the object's name, for each key the command that counts it and what that must say, then
--   fields and values of meta.
-- Returns {'THAWED', version}, {'WARM'} when another thaw was first, {'SHORT', index of the key, count}, {'COLD'} for
-- another object, or {'MISSING'}.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'version', 'cold')
if not m[1] then return {'MISSING'} end
if not m[2] then
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'WARM'}
end
if m[2] ~= ARGV[2] then return {'COLD'} end
for i = 3, #KEYS do
  local count = redis.call(ARGV[2 * i - 3], KEYS[i])
  if count ~= tonumber(ARGV[2 * i - 2]) then return {'SHORT', i - 2, count} end
end
redis.call('HDEL', meta, 'cold', 'sums')
-- Nothing else names it until it is gone.
redis.call('SADD', KEYS[2], ARGV[2])
for i = 2 * #KEYS - 1, #ARGV, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
local now = redis.call('TIME')
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
-- A use, or the janitor would freeze at once what is only read.
redis.call('HSET', meta, 'version', version, 'thawed_ms',
  string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
return {'THAWED', version}
