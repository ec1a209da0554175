-- Lets everybody see an imported session.
-- KEYS: meta.  ARGV: incarnation, which is its first version too, then fields of meta and their values.
-- Returns {'DONE', version} or {'GONE'}.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'incarnation', 'version', 'erasing')
if m[1] ~= ARGV[1] or m[3] then return {'GONE'} end
if m[2] then
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'DONE', m[2]}
end
local now = redis.call('TIME')
redis.call('HDEL', meta, 'importing')
redis.call('HSET', meta, 'version', ARGV[1], 'open_turn', 0, 'epoch', 1, 'void_at', ARGV[1],
  'touched_ms', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
for i = 2, #ARGV, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
return {'DONE', ARGV[1]}
