-- Notes when sessions were used, by the clock of the index's node.
-- KEYS: index.  ARGV: members.
local now = redis.call('TIME')
now = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
for i = 1, #ARGV do redis.call('ZADD', KEYS[1], now, ARGV[i]) end
