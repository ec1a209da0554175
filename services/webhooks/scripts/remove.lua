-- Removes an endpoint.  KEYS: endpoints.  ARGV: id.  Returns 1 if it was there.
return redis.call('HDEL', KEYS[1], ARGV[1])
