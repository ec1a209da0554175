-- Notes how far a job is, if it is still this job and live.
-- KEYS: records, live.  ARGV: name, key, record.  Returns 1 if it was.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored or string.sub(stored, 1, #ARGV[2]) ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
