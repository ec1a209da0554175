-- An entry and its answer, which is used now.
-- KEYS entries, answers, used; ARGV id, now in ms. Returns {entry, answer}, or nothing.
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local answer = redis.call('HGET', KEYS[2], ARGV[1])
if not entry or not answer then
  return nil
end
redis.call('ZADD', KEYS[3], 'XX', 'GT', ARGV[2], ARGV[1])
return {entry, answer}
