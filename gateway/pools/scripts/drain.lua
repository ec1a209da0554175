-- Notes that a pool is drained by hand, or that it is not any more.
-- KEYS[1] the hash of drained pools; ARGV: pool, since when in ms ('' takes it back), how many there may be.
-- Returns 'full', or the whole hash. It writes in any case, so that its confirmation covers what it found done.
local pool, since, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = redis.call('HGET', KEYS[1], pool)
if since ~= '' and not known and redis.call('HLEN', KEYS[1]) >= most then
  return 'full'
end
redis.call('HSET', KEYS[1], pool, known or since)
if since == '' then
  redis.call('HDEL', KEYS[1], pool)
end
return redis.call('HGETALL', KEYS[1])
