-- Notes what sessions of a tenant hold. The same again changes nothing.
-- KEYS: usage.  ARGV: for each session: id, bytes, tokens.
-- Returns {bytes, tokens} of all sessions that are noted.
for i = 1, #ARGV, 3 do
  local bytes, tokens = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '0:0', '^(%d+):(%d+)$')
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ':' .. ARGV[i + 2])
  redis.call('HINCRBY', KEYS[1], ':bytes', string.format('%.0f', ARGV[i + 1] - bytes))
  redis.call('HINCRBY', KEYS[1], ':tokens', string.format('%.0f', ARGV[i + 2] - tokens))
end
return redis.call('HMGET', KEYS[1], ':bytes', ':tokens')
