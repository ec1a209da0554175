#!lua flags=allow-oom
-- Moves or removes a member of an index, unless it was moved meanwhile.
-- KEYS: index.  ARGV: member, its score as it was read, new score or '', ms from now for the new score or ''.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then return end
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
elseif ARGV[4] ~= '' then
  local now = redis.call('TIME')
  redis.call('ZADD', KEYS[1], string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4]), ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
