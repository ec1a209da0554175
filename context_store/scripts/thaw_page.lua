-- Writes a page of an object back. The same page again, or by two shards at once, changes nothing more.
-- KEYS: meta, key.  ARGV: the object's name, 'hash', 'set' or 'stream', then the flat list as dump_page reads it.
-- Returns {'PUT'}, or {'GONE'} when the session is no longer this object.
if redis.call('HGET', KEYS[1], 'cold') ~= ARGV[1] or not redis.call('HGET', KEYS[1], 'version') then
  return {'GONE'}
end
local key, kind = KEYS[2], ARGV[2]
if kind == 'stream' then
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local last = newest and tonumber(string.match(newest[1], '^%d+')) or 0
  for i = 3, #ARGV, 4 do
    if tonumber(string.match(ARGV[i], '^%d+')) > last then
      redis.call('XADD', key, ARGV[i], 'f', ARGV[i + 1], 'b', ARGV[i + 2], 'n', ARGV[i + 3])
    end
  end
else
  -- Lua's stack takes no more than 8,000 values at once.
  for i = 3, #ARGV, 1000 do
    redis.call(kind == 'set' and 'SADD' or 'HSET', key, unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
end
return {'PUT'}
