-- Takes a session out of its tenant's sums, and the sums themselves with the last one.
-- KEYS: usage.  ARGV: session id.
-- Returns {1} if it was in them, else {0}.
local bytes, tokens = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%d+):(%d+)$')
if not bytes then return {0} end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[1], ':bytes', string.format('%.0f', -tonumber(bytes)))
redis.call('HINCRBY', KEYS[1], ':tokens', string.format('%.0f', -tonumber(tokens)))
if redis.call('HLEN', KEYS[1]) == 2 then redis.call('DEL', KEYS[1]) end
return {1}
