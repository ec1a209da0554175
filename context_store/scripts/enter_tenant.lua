-- Adds a session to its tenant's index, where it is not in it already, as far as the tenant may have more.
-- KEYS: the index.  ARGV: session id, sessions at most or 0.
-- Returns {'ENTERED'} or {'FULL', sessions}.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  -- What is answered is acknowledged: the same entry again is no write, and WAIT would wait for nothing.
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
  return {'ENTERED'}
end
local count = redis.call('ZCARD', KEYS[1])
if ARGV[2] ~= '0' and count >= tonumber(ARGV[2]) then return {'FULL', count} end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return {'ENTERED'}
