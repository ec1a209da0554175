-- Notes that a tenant has an entry in a scope, made by a session.
-- KEYS scopes, the session's entries; ARGV scope, entry, now in ms, ttl in ms, scopes at most.
-- Returns the scopes that are too many, whose keys the caller drops.
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', tonumber(ARGV[3]) - tonumber(ARGV[4]))
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local over = {}
while redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[5]) do
  over[#over + 1] = redis.call('ZPOPMIN', KEYS[1])[1]
end
return over
