-- Adds an endpoint.  KEYS: endpoints.  ARGV: id, endpoint, count max.  Returns 1, or 0 where there are as many already.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
