-- Takes all that is kept of a session's jobs out of the book, requests included.
-- KEYS: records, requests, live, ended, dead, sums, names.  ARGV: session, now in ms.  Returns how many there were.
local records, requests, live, ended, dead, sums, names = unpack(KEYS)
redis.call('HSET', sums, 'seen', ARGV[2])
-- Names are `{session}/{turn}`, and the character behind the slash is the zero.
local found = redis.call('ZRANGEBYLEX', names, '[' .. ARGV[1] .. '/', '(' .. ARGV[1] .. '0')
for _, name in ipairs(found) do
  local size = redis.call('HSTRLEN', requests, name)
  for field, shelf in pairs({live_bytes = live, dead_bytes = dead}) do
    if redis.call('ZREM', shelf, name) == 1 then
      local bytes = (tonumber(redis.call('HGET', sums, field)) or 0) - size
      redis.call('HSET', sums, field, string.format('%.0f', bytes))
    end
  end
  redis.call('ZREM', ended, name)
  redis.call('ZREM', names, name)
  redis.call('HDEL', records, name)
  redis.call('HDEL', requests, name)
end
return #found
